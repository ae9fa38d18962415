-- transactional: false
-- Scans that are over while their workflow may still have workers: asked for every minute.
CREATE INDEX CONCURRENTLY IF NOT EXISTS manifests_over_with_workflow ON manifests (scan_id)
 WHERE (is_deleted OR has_final_result OR launch_state IN ('abandoned', 'failed'))
   AND deactivated IS NULL AND ewms_workflow_id <> 'not-yet-requested';

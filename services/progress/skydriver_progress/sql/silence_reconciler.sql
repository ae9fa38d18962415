-- name: find_unwatched_scans(page_size)
-- Running scans without a scheduled silence check. Indexes: manifests_running, due_work_pkey.
SELECT m.scan_id FROM manifests m
 WHERE m.launch_state = 'launched' AND NOT m.is_deleted AND NOT m.has_final_result
   AND NOT EXISTS (SELECT FROM due_work d WHERE d.kind = 'progress.silence' AND d.scan_id = m.scan_id)
 ORDER BY m.scan_id LIMIT :page_size;

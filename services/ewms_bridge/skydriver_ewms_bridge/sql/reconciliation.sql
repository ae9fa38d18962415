-- name: without_workflow(after, most)
-- Launched scans that have no workflow and for which ordering one is not noted. Indexes: manifests_running, due_work_pkey.
SELECT m.scan_id, m.version, m.body, m.rest, '{}'::text[] AS kinds, false AS is_watched
  FROM manifests m
 WHERE m.launch_state = 'launched' AND NOT m.is_deleted AND NOT m.has_final_result AND m.scan_id > :after
   AND m.ewms_workflow_id = 'not-yet-requested'
   AND NOT EXISTS (SELECT FROM due_work d WHERE d.kind = 'ewms-assign' AND d.scan_id = m.scan_id)
 ORDER BY m.scan_id LIMIT :most;

-- name: over_with_workflow(after, most)
-- Scans that are over while their workflow is not known to be stopped, and for which stopping it is not noted. One that EWMS did
-- not know when it was to be stopped is watched no more. Indexes: manifests_over_with_workflow, ewms_watch_pkey, due_work_pkey.
SELECT m.scan_id, m.version, m.body, m.rest, '{}'::text[] AS kinds, true AS is_watched
  FROM manifests m LEFT JOIN ewms_watch w ON w.scan_id = m.scan_id
 WHERE (m.is_deleted OR m.has_final_result OR m.launch_state IN ('abandoned', 'failed'))
   AND m.deactivated IS NULL AND m.ewms_workflow_id <> 'not-yet-requested' AND m.scan_id > :after
   AND (w.scan_id IS NULL OR w.refresh_at IS NOT NULL)
   AND NOT EXISTS (SELECT FROM due_work d WHERE d.kind = 'ewms-stop' AND d.scan_id = m.scan_id)
 ORDER BY m.scan_id LIMIT :most;

-- name: running(after, most)
-- Running scans, with the kinds of work that are noted for them. Indexes: manifests_running, due_work_pkey, ewms_watch_pkey.
SELECT m.scan_id, m.version, m.body, m.rest,
       EXISTS (SELECT FROM ewms_watch w WHERE w.scan_id = m.scan_id) AS is_watched,
       ARRAY (SELECT d.kind FROM due_work d
               WHERE d.kind IN ('ewms-assign', 'ewms-queues', 'ewms-startup', 'ewms-tokens', 'ewms-stop')
                 AND d.scan_id = m.scan_id) AS kinds
  FROM manifests m
 WHERE m.launch_state = 'launched' AND NOT m.is_deleted AND NOT m.has_final_result AND m.scan_id > :after
 ORDER BY m.scan_id LIMIT :most;

-- name: stopped_and_watched(most)
-- Stopped workflows whose workers are still watched, and whose stop is not verified. Index: ewms_watch_order.
SELECT w.scan_id FROM ewms_watch w JOIN manifests m ON m.scan_id = w.scan_id
 WHERE w.refresh_at IS NOT NULL AND m.deactivated IS NOT NULL
   AND NOT EXISTS (SELECT FROM due_work d WHERE d.kind = 'ewms-aftermath' AND d.scan_id = w.scan_id)
 LIMIT :most;

-- name: unclear_additions(most)
-- Scans with a request for workers whose outcome is open, that no replica processes and that is not noted as due. Index: ewms_additions_open.
SELECT DISTINCT a.scan_id FROM ewms_additions a
 WHERE NOT a.is_told AND a.taskforce_uuid IS NULL AND a.held_until < clock_timestamp()
   AND NOT EXISTS (SELECT FROM due_work d WHERE d.kind = 'ewms-additions' AND d.scan_id = a.scan_id)
 LIMIT :most;

-- name: open_attempts(most)
-- Requests for a workflow whose outcome is open, and that are not noted as due. The table holds few rows.
SELECT a.scan_id, a.attempted_at + make_interval(secs => a.longer_s) AS attempted_at FROM ewms_attempts a
 WHERE NOT EXISTS (SELECT FROM due_work d WHERE d.kind IN ('ewms-assign', 'ewms-duplicates') AND d.scan_id = a.scan_id)
 LIMIT :most;

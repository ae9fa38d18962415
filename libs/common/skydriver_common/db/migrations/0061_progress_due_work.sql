-- Scans from before reports were let go, and before silence was watched: they are looked at like those that begin now.

INSERT INTO due_work (kind, scan_id, due_at, priority, created_at)
SELECT 'progress.compact', scan_id, now() + interval '1 hour', 0, now()
  FROM manifests WHERE jsonb_typeof(doc -> 'progress') = 'object'
    ON CONFLICT ON CONSTRAINT due_work_pkey DO NOTHING;

INSERT INTO due_work (kind, scan_id, due_at, priority, created_at)
SELECT 'progress.silence', scan_id, now() + interval '1 hour', 0, now()
  FROM manifests WHERE launch_state = 'launched' AND NOT is_deleted AND NOT has_final_result
    ON CONFLICT ON CONSTRAINT due_work_pkey DO NOTHING;

-- name: digest_of_event(i3_event_id)$
-- The blob of a stored i3 event. Index: i3_events_pkey.
SELECT digest FROM i3_events WHERE i3_event_id = :i3_event_id;

-- name: request_holder(scan_id)$
-- The scan that holds the request of this one. Index: manifests_pkey.
SELECT request_scan_id FROM manifests WHERE scan_id = :scan_id;

-- name: should_run()
-- Scans whose scanner server should be running and is not about to be started. Indexes: manifests_running, due_work_pkey.
SELECT m.scan_id FROM manifests m
 WHERE m.launch_state = 'launched' AND NOT m.is_deleted AND NOT m.has_final_result
   AND NOT EXISTS (SELECT FROM due_work d WHERE d.kind = 'relaunch' AND d.scan_id = m.scan_id);

-- name: throttle_opens_at(name)$
-- When the next one may pass, or null.
SELECT next_at FROM throttles WHERE name = :name;

-- name: pass_throttle(name, now, next_at)$
-- Take the slot if it is free: true, or null when somebody else took it.
INSERT INTO throttles (name, next_at) VALUES (:name, :next_at)
ON CONFLICT ON CONSTRAINT throttles_pkey DO UPDATE SET next_at = excluded.next_at WHERE throttles.next_at <= :now
RETURNING true;

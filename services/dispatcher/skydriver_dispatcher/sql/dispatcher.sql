-- name: digest_of_event(i3_event_id)$
-- The blob of a stored i3 event. Index: i3_events_pkey.
SELECT digest FROM i3_events WHERE i3_event_id = :i3_event_id;

-- name: request_holder(scan_id)$
-- The scan that holds the request of this one. Index: manifests_pkey.
SELECT request_scan_id FROM manifests WHERE scan_id = :scan_id;

-- name: should_run()
-- Scans whose scanner server should be running. Index: manifests_running.
SELECT scan_id FROM manifests WHERE launch_state = 'launched' AND NOT is_deleted AND NOT has_final_result;

-- name: throttle_opens_at(name)$
-- When the next one may pass, or null.
SELECT next_at FROM throttles WHERE name = :name;

-- name: pass_throttle(name, now, next_at)$
-- Take the slot if it is free: true, or null when somebody else took it.
INSERT INTO throttles (name, next_at) VALUES (:name, :next_at)
ON CONFLICT ON CONSTRAINT throttles_pkey DO UPDATE SET next_at = excluded.next_at WHERE throttles.next_at <= :now
RETURNING true;

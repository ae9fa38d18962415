-- name: digest_of_event(i3_event_id)$
-- The blob of a stored i3 event. Index: i3_events_pkey.
SELECT digest FROM i3_events WHERE i3_event_id = :i3_event_id;

-- name: request_holder(scan_id)$
-- The scan that holds the request of this one. Index: manifests_pkey.
SELECT request_scan_id FROM manifests WHERE scan_id = :scan_id;

-- name: load_expected(after, most)
-- Scans whose scanner server should be running, and that neither wait for a restart nor for a verdict on their exit, in pages.
-- The state is read outside: jsonb does not take every text that may stand in it. Indexes: manifests_running, due_work_pkey.
SELECT m.scan_id, m.version, m.rest FROM manifests m
 WHERE m.launch_state = 'launched' AND NOT m.is_deleted AND NOT m.has_final_result AND m.scan_id > :after
   AND NOT EXISTS (SELECT FROM due_work d WHERE d.kind IN ('relaunch', 'scanner-end') AND d.scan_id = m.scan_id)
 ORDER BY m.scan_id LIMIT :most;

-- name: find_without_queues(after, most)
-- Scans that have no end although EWMS has refused or stopped their workflow, in pages. Index: manifests_running.
SELECT m.scan_id FROM manifests m
 WHERE m.launch_state IN ('queued', 'launched') AND NOT m.is_deleted AND NOT m.has_final_result AND m.scan_id > :after
   AND (m.deactivated IS NOT NULL OR m.state LIKE 'STOPPED%')
 ORDER BY m.scan_id LIMIT :most;

-- name: count_restarts(scan_id, within_s)^
-- How often a scan's scanner server was restarted lately, and whether a report has come since the last time.
-- Index: event_log_scan_version_key.
SELECT (SELECT count(*) FROM event_log
         WHERE scan_id = :scan_id AND type = 'scan.scanner-restarted'
           AND recorded_at > clock_timestamp() - make_interval(secs => :within_s)) AS n_recent,
       EXISTS (SELECT FROM event_log
         WHERE scan_id = :scan_id AND type = 'scan.progress-reported' AND version > coalesce(
               (SELECT max(version) FROM event_log WHERE scan_id = :scan_id AND type = 'scan.scanner-restarted'), 0)) AS has_reported;

-- name: find_unknown(scan_ids)
-- Which of these scans the database does not know. Index: manifests_pkey.
SELECT given.scan_id FROM unnest(:scan_ids::text[]) AS given (scan_id)
 WHERE NOT EXISTS (SELECT FROM manifests m WHERE m.scan_id = given.scan_id);

-- name: claim_launch(holder, lease_s)^
-- Lease the scan that may start now, or return when to try again. Indexes: due_work_order, due_work_launch_rank.
-- A lease that is lost in a crash of the database is taken again: no need to wait for the disk.
WITH fast AS (SELECT set_config('synchronous_commit', 'off', true))
SELECT o_scan_id AS scan_id, o_claim AS claim, o_priority AS priority, o_age_s AS age_s, o_tries AS tries, o_note AS note,
       o_interval_place AS interval_place, o_wait_s AS wait_s
  FROM fast, claim_launch_v2(:holder, :lease_s);

-- name: release_interval(place)!
-- Free a place in the interval that was taken in vain. Another one that was taken since stays.
UPDATE launch_throttle SET next_at = clock_timestamp() WHERE next_at = :place;

-- name: set_throttle_defaults(interval_s, max_running)!
-- Store the defaults from the settings; what was set at run time overrides them.
UPDATE launch_throttle SET default_interval_s = :interval_s, default_max_running = :max_running
 WHERE (default_interval_s, default_max_running) IS DISTINCT FROM (:interval_s, :max_running);

-- name: pause_launches(for_s, because)!
-- Let nothing below priority 100 start for so long, or for as long as an earlier pause lasts.
UPDATE launch_throttle
   SET held_because = CASE WHEN clock_timestamp() + make_interval(secs => :for_s) > held_until THEN :because ELSE held_because END,
       held_until = greatest(held_until, clock_timestamp() + make_interval(secs => :for_s));

-- name: pause_until_capacity(for_s, because)!
-- The same, or until there is capacity.
UPDATE launch_throttle
   SET no_room_because = CASE WHEN clock_timestamp() + make_interval(secs => :for_s) > no_room_until THEN :because ELSE no_room_because END,
       no_room_until = greatest(no_room_until, clock_timestamp() + make_interval(secs => :for_s));

-- name: launch_holds()^
-- What holds back scans that are not urgent. Index: manifests_running.
SELECT coalesce(t.cap = 0, false) AS closed,
       coalesce(t.cap > 0 AND t.cap <= (SELECT count(*) FROM (SELECT FROM manifests m
                 WHERE m.launch_state = 'launched' AND NOT m.is_deleted AND NOT m.has_final_result LIMIT t.cap) AS running), false) AS cap,
       t.held_until > clock_timestamp() AS pause, t.no_room_until > clock_timestamp() AS no_room
  FROM (SELECT coalesce(max_running, default_max_running) AS cap, held_until, no_room_until FROM launch_throttle) AS t;

-- name: release_launches(waiting)!
-- There may be capacity again: what waits for it is due. Index: due_work_free.
WITH released AS (
    UPDATE launch_throttle SET no_room_until = '-infinity', no_room_because = '' WHERE no_room_until > clock_timestamp())
UPDATE due_work SET due_at = clock_timestamp()
 WHERE kind = 'launch' AND due_at > clock_timestamp() AND leased_until IS NULL AND note @> :waiting::jsonb;

-- name: installation_id()$
-- The id of the installation that this database belongs to.
SELECT id::text FROM launch_installation;

-- name: lead_from(place, for_s)$
-- Record where the installation's scans are watched; null: they are watched somewhere else at present.
UPDATE launch_installation SET place = :place, place_until = clock_timestamp() + make_interval(secs => :for_s)
 WHERE place IN ('', :place) OR place_until < clock_timestamp() RETURNING true;

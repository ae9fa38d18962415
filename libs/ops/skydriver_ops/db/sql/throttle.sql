-- name: read_throttle()^
-- How fast scans below priority 100 are launched, and how much there is. Indexes: manifests_running, due_work_order.
SELECT coalesce(t.interval_s, t.default_interval_s) AS interval_s, coalesce(t.max_running, t.default_max_running) AS max_running,
       t.interval_s IS NOT NULL AS is_interval_set, t.max_running IS NOT NULL AS is_max_running_set,
       t.default_interval_s, t.default_max_running,
       nullif(t.next_at, '-infinity') AS next_at, nullif(greatest(t.held_until, t.no_room_until), '-infinity') AS held_until,
       CASE WHEN t.held_until >= t.no_room_until THEN t.held_because ELSE t.no_room_because END AS held_because,
       t.changed_at, t.changed_by,
       (SELECT count(*) FROM manifests m WHERE m.launch_state = 'launched' AND NOT m.is_deleted AND NOT m.has_final_result) AS running,
       (SELECT count(*) FROM due_work d WHERE d.kind = 'launch' AND d.priority >= 100) AS waiting_urgent,
       (SELECT count(*) FROM due_work d WHERE d.kind = 'launch' AND d.priority < 100) AS waiting
  FROM launch_throttle t;

-- name: set_throttle(interval_s, max_running, is_interval_given, is_max_running_given, changed_by)!
-- Change what is given, null: back to the settings' value. The next launch need not wait for a longer interval of before.
UPDATE launch_throttle SET
    interval_s = CASE WHEN :is_interval_given THEN :interval_s::double precision ELSE interval_s END,
    max_running = CASE WHEN :is_max_running_given THEN :max_running::integer ELSE max_running END,
    next_at = CASE WHEN :is_interval_given
        THEN least(next_at, now() + make_interval(secs => coalesce(:interval_s::double precision, default_interval_s))) ELSE next_at END,
    changed_at = now(), changed_by = :changed_by;

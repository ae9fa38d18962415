-- name: select_past(xid, position, scan_id, types, since, until, most)
-- Selected events after a cursor in commit-safe order, with the chain. Index: event_log_relay_order.
SELECT xid::text, position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id,
       data, prev_hash, hash
  FROM event_log
 WHERE (xid, position) > (:xid::text::xid8, :position) AND xid < pg_snapshot_xmin(pg_current_snapshot())
   AND (:scan_id::text IS NULL OR scan_id = :scan_id)
   AND (:types::text[] IS NULL OR type = ANY (:types))
   AND (:since::timestamptz IS NULL OR recorded_at >= :since)
   AND (:until::timestamptz IS NULL OR recorded_at < :until)
 ORDER BY event_log.xid, position LIMIT :most;

-- name: select_past_of_scan(xid, position, scan_id, types, since, until, most)
-- The same for one scan, whose few events are found by its own index and sorted. Index: event_log_scan_version_key.
WITH of_scan AS MATERIALIZED (SELECT * FROM event_log WHERE scan_id = :scan_id)
SELECT xid::text, position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id,
       data, prev_hash, hash
  FROM of_scan
 WHERE (xid, position) > (:xid::text::xid8, :position) AND xid < pg_snapshot_xmin(pg_current_snapshot())
   AND (:types::text[] IS NULL OR type = ANY (:types))
   AND (:since::timestamptz IS NULL OR recorded_at >= :since)
   AND (:until::timestamptz IS NULL OR recorded_at < :until)
 ORDER BY of_scan.xid, position LIMIT :most;

-- name: select_newest(xid, position, scan_id, types, since, until, most)
-- The newest selected events up to a cursor, newest first. Index: event_log_relay_order, read backwards.
SELECT xid::text, position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id,
       data, prev_hash, hash
  FROM event_log
 WHERE (xid, position) <= (:xid::text::xid8, :position)
   AND (:scan_id::text IS NULL OR scan_id = :scan_id)
   AND (:types::text[] IS NULL OR type = ANY (:types))
   AND (:since::timestamptz IS NULL OR recorded_at >= :since)
   AND (:until::timestamptz IS NULL OR recorded_at < :until)
 ORDER BY event_log.xid DESC, position DESC LIMIT :most;

-- name: committed_head()^
-- The newest event that no open transaction can still precede. Index: event_log_relay_order, read backwards.
SELECT xid::text, position, recorded_at FROM event_log WHERE xid < pg_snapshot_xmin(pg_current_snapshot())
 ORDER BY event_log.xid DESC, position DESC LIMIT 1;

-- name: cursor_before(position)^
-- The cursor just before an event, so that reading goes on with it. Index: event_log_pkey.
SELECT xid::text, position - 1 AS position FROM event_log WHERE position >= :position ORDER BY event_log.position LIMIT 1;

-- name: event_at(position)^
-- One event with its chain. Index: event_log_pkey.
SELECT xid::text, position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id,
       data, prev_hash, hash
  FROM event_log WHERE position = :position;

-- name: last_position()$
-- Index: event_log_pkey, read backwards.
SELECT coalesce(max(position), 0) FROM event_log;

-- name: counts_by_type_and_day(after, up_to)
-- How many events there are of each type on each day (UTC) in a part of the log, and their size. Index: event_log_pkey.
SELECT (recorded_at AT TIME ZONE 'UTC')::date::text AS day, type, count(*) AS events, sum(octet_length(data)) AS bytes
  FROM event_log WHERE position > :after AND position <= :up_to GROUP BY 1, 2;

-- name: sizes()
-- Bytes on disk, indexes included, of the log and what belongs to it.
SELECT relname AS name, pg_total_relation_size(oid) AS bytes FROM pg_class
 WHERE oid = ANY (ARRAY['event_log', 'blobs', 'command_replies', 'manifests']::regclass[]) ORDER BY relname;

-- name: relay_lag()
-- Per relay, also one that has not published anything yet: events that it has not published, and the age of the oldest of them in
-- seconds. Index: event_log_relay_order.
SELECT c.relay, c.position, c.moved_at,
       (SELECT count(*) FROM event_log e WHERE (e.xid, e.position) > (c.xid, c.position)) AS events_behind,
       coalesce((SELECT extract(epoch FROM now() - e.recorded_at) FROM event_log e
                  WHERE (e.xid, e.position) > (c.xid, c.position) ORDER BY e.xid, e.position LIMIT 1), 0)::float8 AS lag_s
  FROM (SELECT relay, coalesce(xid, '0') AS xid, coalesce(position, 0) AS position, moved_at
          FROM (VALUES ('events')) AS known (relay) FULL JOIN relay_cursors USING (relay)) c ORDER BY c.relay;

-- name: due_work_by_kind()
-- Per kind of due work: how much there is, how much of it is overdue and in nobody's hands, and since when in seconds.
SELECT kind, count(*) AS pieces, count(*) FILTER (WHERE o.is_overdue) AS overdue,
       coalesce(extract(epoch FROM now() - min(due_at) FILTER (WHERE o.is_overdue)), 0)::float8 AS oldest_s
  FROM due_work, LATERAL (SELECT due_at <= now() AND coalesce(leased_until, '-infinity') < now() AS is_overdue) o
 GROUP BY kind ORDER BY kind;

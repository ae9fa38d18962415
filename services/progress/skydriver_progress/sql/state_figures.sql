-- Figures of the whole system, read every half minute by each replica: by indexes, over what is not finished.

-- name: scans
SELECT m.state, count(*) AS figure FROM manifests m
 WHERE NOT m.is_deleted AND NOT m.has_final_result AND m.launch_state IN ('queued', 'launched')
 GROUP BY m.state;

-- name: scan_problems
-- Problems are of scans that may run, and of those whose workers are still watched.
SELECT p.problem ->> 'code' AS code, count(*) AS figure
  FROM (SELECT m.problems FROM manifests m
         WHERE NOT m.is_deleted AND NOT m.has_final_result AND m.launch_state IN ('queued', 'launched') AND m.problems <> '[]'
        UNION ALL
        SELECT m.problems FROM due_work d JOIN manifests m ON m.scan_id = d.scan_id
         WHERE d.kind = 'ewms-aftermath' AND m.problems <> '[]'
           AND NOT (NOT m.is_deleted AND NOT m.has_final_result AND m.launch_state IN ('queued', 'launched'))) AS found,
       LATERAL jsonb_array_elements(json_of(found.problems)) AS p (problem)
 GROUP BY 1;

-- name: backlog
SELECT CASE WHEN b.priority >= :urgent THEN 'urgent' ELSE 'normal' END AS urgency, count(*) AS figure,
       greatest(0, extract(epoch FROM clock_timestamp()) - min(b.queued_at))::double precision AS oldest_s
  FROM backlog b GROUP BY 1;

-- name: due_work
SELECT d.kind, count(*) AS figure,
       greatest(0, extract(epoch FROM clock_timestamp() - min(d.due_at) FILTER (WHERE d.leased_until IS NULL)))::double precision AS overdue_s
  FROM due_work d GROUP BY d.kind;

-- name: unpublished^
SELECT count(*) AS figure FROM (
    SELECT FROM event_log e WHERE (e.xid, e.position) > ((SELECT c.xid FROM relay_cursors c WHERE c.relay = 'events'),
                                                          (SELECT c.position FROM relay_cursors c WHERE c.relay = 'events'))
     LIMIT 10000) AS past;

-- name: server^
SELECT (SELECT count(*) FROM pg_stat_activity a WHERE a.backend_type = 'client backend') AS used,
       current_setting('max_connections')::integer AS most,
       (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - a.xact_start)), 0)::double precision
          FROM pg_stat_activity a WHERE a.backend_xid IS NOT NULL) AS oldest_transaction_s;

-- name: tables
SELECT c.relname AS name, pg_total_relation_size(c.oid) AS figure
  FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace;

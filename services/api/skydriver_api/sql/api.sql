-- name: manifests(scan_ids)
-- Scans as readers see them. Index: manifests_pkey.
SELECT scan_id, body, is_deleted, replaced_by, event_digest, state, deactivated, ewms_workflow_id, ewms_address,
       has_final_result, request_scan_id
  FROM manifests WHERE scan_id = ANY(:scan_ids::text[]);

-- name: end_of_chain(scan_id)$
-- The last scan of a chain of replacements; null for a cycle. Index: manifests_pkey.
WITH RECURSIVE chain AS (
    SELECT scan_id, replaced_by, 1 AS depth FROM manifests WHERE scan_id = :scan_id
    UNION ALL
    SELECT m.scan_id, m.replaced_by, c.depth + 1 FROM chain c JOIN manifests m ON m.scan_id = c.replaced_by WHERE c.depth < 1000)
SELECT scan_id FROM chain WHERE replaced_by IS NULL LIMIT 1;

-- name: chain(scan_id)
-- A scan and those that replaced it, one after the other. Index: manifests_pkey.
WITH RECURSIVE chain AS (
    SELECT scan_id, replaced_by, 1 AS depth FROM manifests WHERE scan_id = :scan_id
    UNION ALL
    SELECT m.scan_id, m.replaced_by, c.depth + 1 FROM chain c JOIN manifests m ON m.scan_id = c.replaced_by WHERE c.depth < 1000)
CYCLE scan_id SET is_cycle USING path
SELECT scan_id FROM chain WHERE NOT is_cycle ORDER BY depth;

-- name: ends(scan_ids)
-- Where it stands when scans had their end; those that may still run are left out. (As bytes: logs in it may hold what jsonb does
-- not take.) Index: manifests_pkey.
SELECT scan_id, rest FROM manifests
 WHERE scan_id = ANY(:scan_ids::text[]) AND (is_deleted OR has_final_result OR launch_state NOT IN ('queued', 'launched'));

-- name: results(scan_ids)
-- Which skymaps scans have. Indexes: manifests_pkey, results_pkey.
SELECT m.scan_id, m.is_deleted, m.replaced_by, r.digest, r.is_final, r.size
  FROM manifests m LEFT JOIN results r ON r.scan_id = m.scan_id WHERE m.scan_id = ANY(:scan_ids::text[]);

-- name: statuses(scan_ids, urgent)
-- What status and workforce need, in one look. held: what keeps a waiting scan from being launched.
-- Indexes: manifests_pkey, workforces_pkey, ewms_watch_pkey, manifests_running.
SELECT m.scan_id, m.is_deleted, m.replaced_by, m.state, m.deactivated, m.ewms_workflow_id, m.problems, w.body AS workforce,
       extract(epoch FROM k.refreshed_at)::float8 AS ewms_as_of,
       (SELECT extract(epoch FROM since)::float8 FROM ewms_outages WHERE openings > 0) AS ewms_away_since,
       (SELECT extract(epoch FROM since)::float8 FROM ewms_outages
         WHERE name = 'bridge' AND since < clock_timestamp() - interval '45 seconds') AS bridge_away_since,
       CASE WHEN m.launch_state = 'queued' AND m.priority < :urgent AND NOT m.is_deleted AND NOT m.has_final_result THEN (
           SELECT CASE WHEN t.cap = 0 THEN 'closed' WHEN t.no_room_until > clock_timestamp() THEN 'no-room'
                       WHEN t.held_until > clock_timestamp() THEN 'pause'
                       WHEN t.cap <= (SELECT count(*) FROM (SELECT FROM manifests r WHERE r.launch_state = 'launched' AND NOT r.is_deleted
                                                               AND NOT r.has_final_result LIMIT t.cap) AS running) THEN 'cap' END
             FROM (SELECT coalesce(max_running, default_max_running) AS cap, held_until, no_room_until FROM launch_throttle) AS t)
       END AS held
  FROM manifests m LEFT JOIN workforces w ON w.scan_id = m.scan_id LEFT JOIN ewms_watch k ON k.scan_id = m.scan_id
 WHERE m.scan_id = ANY(:scan_ids::text[]);

-- name: scan_request(scan_id)$
-- The request a scan was made from. Indexes: manifests_pkey, scan_requests_pkey.
SELECT r.body FROM manifests m JOIN scan_requests r ON r.scan_id = m.request_scan_id WHERE m.scan_id = :scan_id;

-- name: backlog(after, after_at, most)
-- Waiting scans, oldest first, after one of them, which may have left the list meanwhile: then its own age tells where it stood.
-- A priority beyond 32 bits stands in the manifest only.
SELECT scan_id, queued_at,
       CASE WHEN abs(priority) < 2147483647 THEN priority
            ELSE coalesce((SELECT (m.doc ->> 'priority')::bigint FROM manifests m WHERE m.scan_id = backlog.scan_id),
                          priority) END AS priority,
       taken_at, attempts
  FROM backlog
 WHERE :after::text IS NULL
    OR (queued_at, scan_id) > (coalesce((SELECT queued_at FROM backlog WHERE scan_id = :after), :after_at::float8), :after)
 ORDER BY queued_at, scan_id LIMIT :most::bigint;

-- name: limit_transaction(seconds)$
-- Of a transaction that is read as fast as a client takes it.
SELECT set_config('transaction_timeout', :seconds::int::text || 's', true);

-- name: i3_event_exists(i3_event_id)$
-- Whether an event is stored. Index: i3_events_pkey.
SELECT EXISTS (SELECT FROM i3_events WHERE i3_event_id = :i3_event_id);

-- name: taskforces(scan_id)$
-- The taskforces as EWMS gave them last, zstd. Index: ewms_taskforces_pkey.
SELECT body FROM ewms_taskforces WHERE scan_id = :scan_id;

-- name: scan_start(scan_id)^
-- What tells when a scanner server began, the first that is there. Index: manifests_pkey.
SELECT doc #>> '{progress,start}' AS progress_start,
       doc #>> '{progress,processing_stats,start,scanner start}' AS scanner_start, doc ->> 'timestamp' AS requested_at
  FROM manifests WHERE scan_id = :scan_id;

-- name: events_after(scan_id, after, most, most_bytes)
-- One scan's events after a version, in order, up to the one that reaches so many bytes (their lengths are known without reading
-- what is stored out of line). Index: event_log_scan_version_key.
SELECT position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id, data
  FROM (SELECT *, sum(octet_length(data)) OVER (ORDER BY version) - octet_length(data) AS before
          FROM (SELECT * FROM event_log WHERE scan_id = :scan_id AND version > :after ORDER BY version LIMIT :most) AS next) AS page
 WHERE before < :most_bytes ORDER BY version;

-- name: versions(scan_ids)
-- The newest versions of scans. Index: manifests_pkey.
SELECT scan_id, version FROM manifests WHERE scan_id = ANY(:scan_ids::text[]);

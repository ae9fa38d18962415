-- name: digests(after, most)
-- Names of blobs in order. Index: blobs_pkey.
SELECT digest FROM blobs WHERE digest > :after ORDER BY digest LIMIT :most;

-- name: last_position()$
-- Index: event_log_pkey, read backwards.
SELECT coalesce(max(position), 0) FROM event_log;

-- name: referring(after, up_to)
-- Events in a part of the log that refer to blobs. Their data is read by the caller: jsonb refuses what a name may hold. Index:
-- event_log_pkey.
SELECT scan_id, version, type, data FROM event_log
 WHERE position > :after AND position <= :up_to AND type IN ('scan.requested', 'scan.result-received') AND get_byte(data, 0) <> 0
 ORDER BY position;

-- name: removed_before(scan_ids)
-- Of each scan: the version before which its history says that skymaps of partial results were removed, and its first result, which
-- never is. Index: event_log_scan_version_key.
SELECT scan_id, max((json_of(data) ->> 'before_version')::int) FILTER (WHERE type = 'scan.results-compacted') AS before,
       min(version) FILTER (WHERE type = 'scan.result-received') AS first
  FROM (SELECT scan_id, version, type, CASE type WHEN 'scan.results-compacted' THEN data END AS data FROM event_log
         WHERE scan_id = ANY (:scan_ids) AND type IN ('scan.results-compacted', 'scan.result-received')) of_results
 GROUP BY scan_id;

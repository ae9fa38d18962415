-- name: newest_report_before(scan_id, before)$
-- Version of the newest progress report that was recorded before a time and has its payload. Index: event_log_scan_version_key.
SELECT max(version) FROM event_log
 WHERE scan_id = :scan_id AND type = 'scan.progress-reported' AND recorded_at < :before AND get_byte(data, 0) <> 0;

-- name: payloads_before(scan_id, version, most)^
-- What would be compacted: how many payloads, and their bytes. Index: event_log_scan_version_key.
SELECT count(*) AS payloads, coalesce(sum(octet_length(data)), 0)::bigint AS bytes
  FROM (SELECT data FROM event_log WHERE scan_id = :scan_id AND version < :version AND type = 'scan.progress-reported'
           AND get_byte(data, 0) <> 0 ORDER BY version LIMIT :most) old;

-- name: let_go_of_progress(scan_id, keep_from, most)^
SELECT payloads, bytes FROM let_go_of_progress(:scan_id, :keep_from, :most);

-- name: newest_result_before(scan_id, before)$
-- Version of the newest result that was recorded before a time. Index: event_log_scan_version_key.
SELECT max(version) FROM event_log WHERE scan_id = :scan_id AND type = 'scan.result-received' AND recorded_at < :before;

-- name: drop_superseded_results(scan_id, keep_from, most)^
-- Indexes: event_log_scan_version_key, result_digests_pkey, i3_events_digest.
SELECT results, bytes FROM drop_superseded_results(:scan_id, :keep_from, :most);

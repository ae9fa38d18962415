-- name: chains(scan_id, version, since, most)
-- Links scan by scan, in order of version, after a place. Index: event_log_scan_version_key.
SELECT xid::text, position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id,
       data, prev_hash, hash
  FROM event_log WHERE (scan_id, version) > (:scan_id, :version) AND position >= :since
 ORDER BY event_log.scan_id, event_log.version LIMIT :most;

-- name: chains_after(scan_ids, versions)
-- The links of some scans after a version of each, in order. Index: event_log_scan_version_key.
SELECT xid::text, position, event_id, e.scan_id, e.version, type, schema_version, recorded_at, actor, command_id, correlation_id,
       data, prev_hash, hash
  FROM unnest(:scan_ids::text[], :versions::int[]) AS known (scan_id, version)
  JOIN event_log e ON e.scan_id = known.scan_id AND e.version > known.version ORDER BY e.scan_id, e.version;

-- name: hash_of(scan_id, version)$
-- The hash of one link. Index: event_log_scan_version_key.
SELECT hash FROM event_log WHERE scan_id = :scan_id AND version = :version;

-- name: heads(scan_id, most)
-- The newest link of each scan after a scan id. Index: event_log_scan_version_key.
SELECT DISTINCT ON (scan_id) scan_id, version, hash FROM event_log WHERE scan_id > :scan_id
 ORDER BY scan_id, version DESC LIMIT :most;

-- name: hashes_of(scan_ids, versions)
-- The hashes of named links; a link that is not there gives no row. Index: event_log_scan_version_key.
SELECT e.scan_id, e.version, e.hash FROM unnest(:scan_ids::text[], :versions::int[]) AS wanted (scan_id, version)
  JOIN event_log e ON e.scan_id = wanted.scan_id AND e.version = wanted.version;

-- name: heads_that_differ()
-- Scans whose newest link is not the one that their manifest was folded from; what belongs to no scan has no manifest.
-- Index: event_log_scan_version_key.
SELECT coalesce(m.scan_id, h.scan_id) AS scan_id, m.version AS folded, h.version AS logged
  FROM manifests m
  FULL JOIN (SELECT DISTINCT ON (scan_id) scan_id, version, hash FROM event_log WHERE scan_id <> 'system'
               ORDER BY scan_id, version DESC) h
         ON h.scan_id = m.scan_id
 WHERE h.version IS DISTINCT FROM m.version OR h.hash IS DISTINCT FROM m.head_hash ORDER BY 1;

-- name: scans_changed_since(xid)
-- Scans with events that a snapshot with this xmin may not have seen, and how many. Index: event_log_relay_order.
SELECT scan_id, count(*) AS events FROM event_log WHERE xid >= :xid::text::xid8 AND scan_id <> 'system' GROUP BY scan_id ORDER BY scan_id;

-- name: states(scan_ids)
-- The states of scans in the manifests of the search path. Index: manifests_pkey.
SELECT scan_id, version, head_hash, body, rest FROM manifests WHERE scan_id = ANY (:scan_ids);

-- name: snapshot_xmin()$
-- Everything older is committed for good.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text;

-- name: live_manifests(after, up_to)
SELECT scan_id, version, head_hash, body, rest, is_deleted, replaced_by, ewms_workflow_id, ewms_address, event_digest, priority,
       state, launch_state, deactivated, request_scan_id, has_final_result, problems
  FROM manifests WHERE scan_id > :after AND (:up_to::text IS NULL OR scan_id <= :up_to) ORDER BY scan_id;

-- name: live_scan_requests(after, up_to)
SELECT scan_id, body, rescan_ids FROM scan_requests
 WHERE scan_id > :after AND (:up_to::text IS NULL OR scan_id <= :up_to) ORDER BY scan_id;

-- name: live_results(after, up_to)
SELECT scan_id, digest, size, is_final FROM results
 WHERE scan_id > :after AND (:up_to::text IS NULL OR scan_id <= :up_to) ORDER BY scan_id;

-- name: live_backlog(after, up_to)
SELECT scan_id, priority, queued_at, taken_at, attempts FROM backlog
 WHERE scan_id > :after AND (:up_to::text IS NULL OR scan_id <= :up_to) ORDER BY scan_id;

-- name: live_workforces(after, up_to)
SELECT scan_id, body FROM workforces WHERE scan_id > :after AND (:up_to::text IS NULL OR scan_id <= :up_to) ORDER BY scan_id;

-- name: live_i3_events(ids)
SELECT i3_event_id, digest FROM i3_events WHERE i3_event_id = ANY (:ids);

-- name: i3_events_of_no_scan()
SELECT i3_event_id FROM i3_events i
 WHERE NOT EXISTS (SELECT FROM manifests m WHERE m.doc ->> 'i3_event_id' = i.i3_event_id) ORDER BY 1;

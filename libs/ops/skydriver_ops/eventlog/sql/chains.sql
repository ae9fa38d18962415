-- name: chains(scan_id, version, most)
-- Links scan by scan, in order of version, after a place. Index: event_log_scan_version_key.
SELECT xid::text, position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id,
       data, prev_hash, hash
  FROM event_log WHERE (scan_id, version) > (:scan_id, :version)
 ORDER BY event_log.scan_id, event_log.version LIMIT :most;

-- name: written_since(position, most)
-- Places of links in order of position, from one on. Index: event_log_pkey.
SELECT position, scan_id, version FROM event_log WHERE position >= :position ORDER BY event_log.position LIMIT :most;

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
-- The newest link of each scan after a scan id: two looks into the index per scan, however long its history. Index:
-- event_log_scan_version_key.
WITH RECURSIVE scans AS (
    (SELECT scan_id, 1 AS number FROM event_log WHERE scan_id > :scan_id ORDER BY event_log.scan_id LIMIT 1)
    UNION ALL
    SELECT (SELECT e.scan_id FROM event_log e WHERE e.scan_id > scans.scan_id ORDER BY e.scan_id LIMIT 1), number + 1
      FROM scans WHERE scans.scan_id IS NOT NULL AND number < :most)
SELECT scans.scan_id, head.version, head.hash
  FROM scans CROSS JOIN LATERAL (
       SELECT version, hash FROM event_log e WHERE e.scan_id = scans.scan_id ORDER BY e.version DESC LIMIT 1) head
 ORDER BY 1;

-- name: hashes_of(scan_ids, versions)
-- The hashes of named links; a link that is not there gives no row. Index: event_log_scan_version_key.
SELECT e.scan_id, e.version, e.hash FROM unnest(:scan_ids::text[], :versions::int[]) AS wanted (scan_id, version)
  JOIN event_log e ON e.scan_id = wanted.scan_id AND e.version = wanted.version;

-- name: heads_beside_manifests(scan_id, most)
-- For each scan after a scan id, in the log or the manifests: its newest link, and the one that its manifest was folded from. What
-- belongs to no scan has no manifest. Indexes: event_log_scan_version_key, manifests_pkey.
WITH RECURSIVE scans AS (
    SELECT least((SELECT e.scan_id FROM event_log e WHERE e.scan_id > :scan_id ORDER BY e.scan_id LIMIT 1),
                 (SELECT m.scan_id FROM manifests m WHERE m.scan_id > :scan_id ORDER BY m.scan_id LIMIT 1)) AS scan_id, 1 AS number
    UNION ALL
    SELECT least((SELECT e.scan_id FROM event_log e WHERE e.scan_id > scans.scan_id ORDER BY e.scan_id LIMIT 1),
                 (SELECT m.scan_id FROM manifests m WHERE m.scan_id > scans.scan_id ORDER BY m.scan_id LIMIT 1)), number + 1
      FROM scans WHERE scans.scan_id IS NOT NULL AND number < :most)
SELECT scans.scan_id, m.version AS folded, head.version AS logged,
       scans.scan_id = 'system' OR (head.version IS NOT DISTINCT FROM m.version AND head.hash IS NOT DISTINCT FROM m.head_hash) AS is_same
  FROM scans
  LEFT JOIN LATERAL (SELECT version, hash FROM event_log e WHERE e.scan_id = scans.scan_id ORDER BY e.version DESC LIMIT 1) head ON true
  LEFT JOIN manifests m ON m.scan_id = scans.scan_id
 WHERE scans.scan_id IS NOT NULL ORDER BY 1;

-- name: scans_changed_since(xid)
-- Scans with events that a snapshot with this xmin may not have seen, and how many. Index: event_log_relay_order.
SELECT scan_id, count(*) AS events FROM event_log WHERE xid >= :xid::text::xid8 AND scan_id <> 'system' GROUP BY scan_id ORDER BY scan_id;

-- name: states(scan_ids)
-- The states of scans in the manifests of the search path. Index: manifests_pkey.
SELECT scan_id, version, head_hash, body, rest FROM manifests WHERE scan_id = ANY (:scan_ids);

-- name: snapshot_xmin()$
-- Everything older is committed for good.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text;

-- name: live_manifests(after, up_to, scan_ids)
SELECT scan_id, version, head_hash, body, rest, is_deleted, replaced_by, ewms_workflow_id, ewms_address, event_digest, priority,
       state, launch_state, deactivated, request_scan_id, has_final_result, problems
  FROM manifests WHERE scan_id > :after AND (:up_to::text IS NULL OR scan_id <= :up_to)
   AND (:scan_ids::text[] IS NULL OR scan_id = ANY (:scan_ids)) ORDER BY scan_id;

-- name: live_scan_requests(after, up_to, scan_ids)
SELECT scan_id, body, rescan_ids FROM scan_requests
 WHERE scan_id > :after AND (:up_to::text IS NULL OR scan_id <= :up_to)
   AND (:scan_ids::text[] IS NULL OR scan_id = ANY (:scan_ids)) ORDER BY scan_id;

-- name: live_results(after, up_to, scan_ids)
SELECT scan_id, digest, size, is_final FROM results
 WHERE scan_id > :after AND (:up_to::text IS NULL OR scan_id <= :up_to)
   AND (:scan_ids::text[] IS NULL OR scan_id = ANY (:scan_ids)) ORDER BY scan_id;

-- name: live_backlog(after, up_to, scan_ids)
SELECT scan_id, priority, queued_at, taken_at, attempts FROM backlog
 WHERE scan_id > :after AND (:up_to::text IS NULL OR scan_id <= :up_to)
   AND (:scan_ids::text[] IS NULL OR scan_id = ANY (:scan_ids)) ORDER BY scan_id;

-- name: live_workforces(after, up_to, scan_ids)
SELECT scan_id, body FROM workforces WHERE scan_id > :after AND (:up_to::text IS NULL OR scan_id <= :up_to)
   AND (:scan_ids::text[] IS NULL OR scan_id = ANY (:scan_ids)) ORDER BY scan_id;

-- name: live_i3_events(ids)
SELECT i3_event_id, digest FROM i3_events WHERE i3_event_id = ANY (:ids);

-- name: i3_events_of_no_scan()
SELECT i3_event_id FROM i3_events i
 WHERE NOT EXISTS (SELECT FROM manifests m WHERE m.doc ->> 'i3_event_id' = i.i3_event_id) ORDER BY 1;

-- name: load(command_ids, scan_ids)
-- Lock and load scans (kind s), and the replies recorded under the commands' ids (r).
-- First advisory locks, one by one in the order of their keys, then the rows. A row's lock gives the transaction its id, an
-- advisory one does not. So whoever waits for a scan has no id yet, and ids rise with the versions of each scan: readers go by
-- them. The subquery that takes the locks says which rows are wanted: none can be locked before it has come to its end.
-- Index: manifests_pkey, command_replies_pkey.
WITH wanted AS (
    SELECT scan_id, version, head_hash, body, rest FROM manifests
     WHERE scan_id = ANY((
         SELECT array_agg(locked.scan_id)
           FROM (SELECT scan_id, pg_advisory_xact_lock(7311007, key) AS taken
                   FROM (SELECT scan_id, hashtext(scan_id) AS key FROM unnest(:scan_ids::text[]) scan_id ORDER BY 2, 1) sorted) locked
          WHERE locked.taken IS NOT NULL)::text[])
     ORDER BY scan_id FOR UPDATE)
SELECT 's' AS kind, scan_id, version, head_hash, body, rest, NULL AS fingerprint, NULL AS code, NULL AS reason FROM wanted
UNION ALL
SELECT 'r', command_id, NULL, NULL, body, NULL, fingerprint, code, reason
  FROM command_replies WHERE command_id = ANY(:command_ids);

-- name: recorded_reply(command_id)^
-- The reply under a command's id, or nothing. Index: command_replies_pkey.
SELECT fingerprint, code, reason, body FROM command_replies WHERE command_id = :command_id;

-- name: record_decision(event_ids, scan_ids, versions, types, schema_versions, recorded_ats, actors, command_ids, correlation_ids, datas, prev_hashes, hashes, m_scan_ids, m_versions, m_head_hashes, m_bodies, m_rests, m_is_deleteds, m_replaced_bys, m_workflow_ids, m_ewms_addresses, m_event_digests, m_priorities, m_states, m_launch_states, m_deactivateds, m_request_scan_ids, m_has_final_results, m_problems, m_is_news, r_command_ids, r_fingerprints, r_codes, r_reasons, r_bodies)!
-- Append events, write the manifests folded from them and the replies, in one statement.
WITH logged AS (
    INSERT INTO event_log (event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id,
                           data, prev_hash, hash)
    SELECT * FROM unnest(:event_ids::uuid[], :scan_ids::text[], :versions::int[], :types::text[], :schema_versions::smallint[],
                         :recorded_ats::timestamptz[], :actors::text[], :command_ids::text[], :correlation_ids::text[],
                         :datas::bytea[], :prev_hashes::bytea[], :hashes::bytea[])),
given AS MATERIALIZED (
    SELECT * FROM unnest(:m_scan_ids::text[], :m_versions::int[], :m_head_hashes::bytea[], :m_bodies::bytea[],
                         :m_rests::bytea[], :m_is_deleteds::bool[], :m_replaced_bys::text[], :m_workflow_ids::text[],
                         :m_ewms_addresses::text[], :m_event_digests::text[], :m_priorities::int[], :m_states::text[],
                         :m_launch_states::text[], :m_deactivateds::text[], :m_request_scan_ids::text[],
                         :m_has_final_results::bool[], :m_problems::bytea[], :m_is_news::bool[])
             AS g (scan_id, version, head_hash, body, rest, is_deleted, replaced_by, ewms_workflow_id, ewms_address,
                   event_digest, priority, state, launch_state, deactivated, request_scan_id, has_final_result, problems, is_new)),
begun AS (
    INSERT INTO manifests (scan_id, version, head_hash, body, rest, is_deleted, replaced_by, ewms_workflow_id, ewms_address,
                           event_digest, priority, state, launch_state, deactivated, request_scan_id, has_final_result,
                           problems)
    SELECT scan_id, version, head_hash, body, rest, is_deleted, replaced_by, ewms_workflow_id, ewms_address, event_digest,
           priority, state, launch_state, deactivated, request_scan_id, has_final_result, problems FROM given WHERE is_new),
folded AS (
    -- no upsert: that would compute doc and find_keys twice, the larger part of its time
    UPDATE manifests SET
        version = g.version, head_hash = g.head_hash, body = g.body, rest = g.rest, is_deleted = g.is_deleted,
        replaced_by = g.replaced_by, ewms_workflow_id = g.ewms_workflow_id, ewms_address = g.ewms_address, state = g.state,
        launch_state = g.launch_state, deactivated = g.deactivated, has_final_result = g.has_final_result, problems = g.problems
      FROM given g WHERE manifests.scan_id = g.scan_id AND NOT g.is_new)
INSERT INTO command_replies (command_id, fingerprint, code, reason, body)
SELECT * FROM unnest(:r_command_ids::text[], :r_fingerprints::text[], :r_codes::text[], :r_reasons::text[], :r_bodies::bytea[]);

-- name: claim_command(command_id, fingerprint)$
-- Note that a command without a reply of its own has taken effect; false when it had before. Waits for a twin that is at it.
WITH noted AS (
    INSERT INTO command_replies (command_id, fingerprint, reason, body) VALUES (:command_id, :fingerprint, '', '')
    ON CONFLICT ON CONSTRAINT command_replies_pkey DO NOTHING RETURNING 1)
SELECT EXISTS (SELECT FROM noted);

-- name: lock_system_log()$
-- One writer at a time, until the transaction ends. The number: arbitrary, the same for everybody (break-glass uses it too).
SELECT pg_advisory_xact_lock(7311003);

-- name: system_head()^
-- The newest fact that belongs to no scan. Index: event_log_scan_version_key.
SELECT version, hash FROM event_log WHERE scan_id = 'system' ORDER BY version DESC LIMIT 1;

-- name: append_events(event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id, data, prev_hash, hash)*!
INSERT INTO event_log (event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id, data,
                       prev_hash, hash)
VALUES (:event_id, :scan_id, :version, :type, :schema_version, :recorded_at, :actor, :command_id, :correlation_id, :data,
        :prev_hash, :hash);

-- name: write_scan_request(scan_id, body, rescan_ids)!
-- Many rows: each parameter is a column. rescan_ids: JSON arrays.
INSERT INTO scan_requests (scan_id, body, rescan_ids)
SELECT scan_id, body, ARRAY(SELECT jsonb_array_elements_text(ids::jsonb))
  FROM unnest(:scan_id::text[], :body::bytea[], :rescan_ids::text[]) AS given (scan_id, body, ids)
ON CONFLICT ON CONSTRAINT scan_requests_pkey DO UPDATE SET body = excluded.body, rescan_ids = excluded.rescan_ids;

-- name: write_i3_event(i3_event_id, digest)!
-- Many rows: each parameter is a column.
INSERT INTO i3_events (i3_event_id, digest) SELECT * FROM unnest(:i3_event_id::text[], :digest::text[])
ON CONFLICT ON CONSTRAINT i3_events_pkey DO NOTHING;

-- name: write_result(scan_id, digest, size, is_final)!
-- Many rows: each parameter is a column.
INSERT INTO results (scan_id, digest, size, is_final)
SELECT * FROM unnest(:scan_id::text[], :digest::text[], :size::bigint[], :is_final::bool[])
ON CONFLICT ON CONSTRAINT results_pkey DO UPDATE SET digest = excluded.digest, size = excluded.size, is_final = excluded.is_final;

-- name: write_backlog(scan_id, priority, queued_at, taken_at, attempts)!
-- Many rows: each parameter is a column.
INSERT INTO backlog (scan_id, priority, queued_at, taken_at, attempts)
SELECT * FROM unnest(:scan_id::text[], :priority::int[], :queued_at::float8[], :taken_at::float8[], :attempts::int[])
ON CONFLICT ON CONSTRAINT backlog_pkey DO UPDATE SET taken_at = excluded.taken_at, attempts = excluded.attempts;

-- name: leave_backlog(scan_id)!
DELETE FROM backlog WHERE scan_id = ANY(:scan_id::text[]);

-- name: write_workforce(scan_id, body)!
-- Many rows: each parameter is a column.
INSERT INTO workforces (scan_id, body) SELECT * FROM unnest(:scan_id::text[], :body::bytea[])
ON CONFLICT ON CONSTRAINT workforces_pkey DO UPDATE SET body = excluded.body;

-- name: leave_workforce(scan_id)!
DELETE FROM workforces WHERE scan_id = ANY(:scan_id::text[]);

-- name: past_cursor(xid, position, most, most_bytes)
-- Committed events after a cursor, in commit-safe order: never past a transaction that is still open; up to the one that reaches
-- so many bytes. Index: event_log_relay_order.
SELECT xid::text, position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id, data
  FROM (SELECT *, sum(octet_length(data)) OVER (ORDER BY xid, position) - octet_length(data) AS before
          FROM (SELECT * FROM event_log
                 WHERE (xid, position) > (:xid::xid8, :position) AND xid < pg_snapshot_xmin(pg_current_snapshot())
                 ORDER BY event_log.xid, position LIMIT :most) AS next) AS batch
 WHERE before < :most_bytes ORDER BY batch.xid, position;

-- name: oldest_past_cursor(xid, position)$
-- When the first event after a cursor was recorded, also one that an open transaction holds back; null for none. Index:
-- event_log_relay_order.
SELECT recorded_at FROM event_log WHERE (xid, position) > (:xid::text::xid8, :position) ORDER BY xid, position LIMIT 1;

-- name: history(scan_id, after, most)
-- One scan's events after a version, in order. Index: event_log_scan_version_key.
SELECT position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id,
       data, prev_hash, hash
  FROM event_log WHERE scan_id = :scan_id AND version > :after ORDER BY version LIMIT :most;

-- name: is_ahead_of_the_server()$
-- Whether the log holds ids of transactions that this server has not come to: it was written on another one. Index:
-- event_log_relay_order, read backwards.
SELECT coalesce((SELECT xid >= pg_snapshot_xmax(pg_current_snapshot()) FROM event_log ORDER BY xid DESC, position DESC LIMIT 1), false);

-- name: relay_cursor(relay)^
SELECT xid::text AS xid, position FROM relay_cursors WHERE relay = :relay;

-- name: move_relay_cursor(relay, xid, position)!
-- Does not wait for the disk: a cursor lost in a crash means that some events are published twice, as they may be.
WITH fast AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
INSERT INTO relay_cursors (relay, xid, position) SELECT :relay, :xid::text::xid8, :position FROM fast
ON CONFLICT ON CONSTRAINT relay_cursors_pkey DO UPDATE SET xid = excluded.xid, position = excluded.position, moved_at = now();

-- name: put_blobs(digests, encodings, sizes, bodies)!
-- The commit does not wait for the disk: the one of the decision that refers to the blob does, and covers this one.
WITH fast AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
INSERT INTO blobs (digest, encoding, size, body)
SELECT given.* FROM fast, unnest(:digests::text[], :encodings::text[], :sizes::bigint[], :bodies::bytea[]) AS given
-- an old one becomes young again, so that housekeeping leaves it to the decision that will refer to it
ON CONFLICT ON CONSTRAINT blobs_pkey DO UPDATE SET stored_at = now() WHERE blobs.stored_at < now() - interval '1 hour';

-- name: put_blob(digest, encoding, size, body)!
-- The same for one alone: without the copies that an array of large bodies costs.
WITH fast AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
INSERT INTO blobs (digest, encoding, size, body)
SELECT :digest::text, :encoding::text, :size::bigint, :body::bytea FROM fast
ON CONFLICT ON CONSTRAINT blobs_pkey DO UPDATE SET stored_at = now() WHERE blobs.stored_at < now() - interval '1 hour';

-- name: wait_shortly_for_locks()$
-- Until the transaction ends.
SELECT set_config('lock_timeout', '1s', true);

-- name: lock_as_writers_do()!
-- The locks that every decision takes: they don't disturb each other.
LOCK TABLE event_log, manifests IN ROW EXCLUSIVE MODE;

-- name: missing_blobs(digests)
-- Which of these blobs are not stored. Index: blobs_pkey.
SELECT digest FROM unnest(:digests::text[]) AS wanted (digest)
 WHERE NOT EXISTS (SELECT FROM blobs b WHERE b.digest = wanted.digest);

-- name: get_blob(digest)^
SELECT encoding, size, body FROM blobs WHERE digest = :digest;

-- name: blob_size(digest)$
-- Of its content, in bytes; null when there is none. Index: blobs_pkey.
SELECT size FROM blobs WHERE digest = :digest;

-- name: history_page(scan_id, after, most, most_bytes)
-- A scan's events after a version, in order: so many at most, and no further one once there are so many bytes. `more`: whether
-- there are others. Index: event_log_scan_version_key.
SELECT position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id, data,
       n < total AS more
  FROM (SELECT e.*, row_number() OVER w AS n, count(*) OVER () AS total,
               sum(octet_length(data)) OVER w - octet_length(data) AS before
          FROM (SELECT position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id,
                       data
                  FROM event_log WHERE scan_id = :scan_id AND version > :after ORDER BY version LIMIT :most::bigint + 1) e
        WINDOW w AS (ORDER BY version ROWS UNBOUNDED PRECEDING)) page
 WHERE n <= :most AND before < :most_bytes ORDER BY version;

-- name: is_progress_compacted(scan_id, version)$
-- Whether the newest progress report up to a version has lost its content. Index: event_log_scan_version_key.
SELECT get_byte(data, 0) = 0 FROM event_log
 WHERE scan_id = :scan_id AND version <= :version AND type = 'scan.progress-reported' ORDER BY version DESC LIMIT 1;

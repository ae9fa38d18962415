-- name: load(command_id, scan_ids)
-- Lock and load scans, with the reply recorded under the command's id. At least one row. Index: manifests_pkey.
WITH wanted AS (
    SELECT scan_id, version, head_hash, body, rest FROM manifests
     WHERE scan_id = ANY(:scan_ids) ORDER BY scan_id FOR UPDATE)
SELECT w.scan_id, w.version, w.head_hash, w.body, w.rest,
       r.command_id, r.fingerprint, r.code, r.reason, r.body AS reply_body
  FROM (VALUES (1)) AS always LEFT JOIN command_replies r ON r.command_id = :command_id LEFT JOIN wanted w ON true;

-- name: recorded_reply(command_id)^
-- The reply under a command's id, or nothing. Index: command_replies_pkey.
SELECT fingerprint, code, reason, body FROM command_replies WHERE command_id = :command_id;

-- name: record_decision(event_ids, scan_ids, versions, types, schema_versions, recorded_ats, actors, command_ids, correlation_ids, datas, prev_hashes, hashes, m_scan_ids, m_versions, m_head_hashes, m_bodies, m_rests, m_is_deleteds, m_replaced_bys, m_workflow_ids, m_ewms_addresses, m_event_digests, m_priorities, m_states, m_launch_states, m_deactivateds, m_request_scan_ids, m_has_final_results, m_problems, r_command_ids, r_fingerprints, r_codes, r_reasons, r_bodies)!
-- Append events, write the manifests folded from them and the replies, in one statement.
WITH logged AS (
    INSERT INTO event_log (event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id,
                           data, prev_hash, hash)
    SELECT * FROM unnest(:event_ids::uuid[], :scan_ids::text[], :versions::int[], :types::text[], :schema_versions::smallint[],
                         :recorded_ats::timestamptz[], :actors::text[], :command_ids::text[], :correlation_ids::text[],
                         :datas::bytea[], :prev_hashes::bytea[], :hashes::bytea[])),
folded AS (
    INSERT INTO manifests (scan_id, version, head_hash, body, rest, is_deleted, replaced_by, ewms_workflow_id, ewms_address,
                           event_digest, priority, state, launch_state, deactivated, request_scan_id, has_final_result,
                           problems)
    SELECT * FROM unnest(:m_scan_ids::text[], :m_versions::int[], :m_head_hashes::bytea[], :m_bodies::bytea[],
                         :m_rests::bytea[], :m_is_deleteds::bool[], :m_replaced_bys::text[], :m_workflow_ids::text[],
                         :m_ewms_addresses::text[], :m_event_digests::text[], :m_priorities::int[], :m_states::text[],
                         :m_launch_states::text[], :m_deactivateds::text[], :m_request_scan_ids::text[],
                         :m_has_final_results::bool[], :m_problems::bytea[])
    ON CONFLICT ON CONSTRAINT manifests_pkey DO UPDATE SET
        version = excluded.version, head_hash = excluded.head_hash, body = excluded.body, rest = excluded.rest,
        is_deleted = excluded.is_deleted, replaced_by = excluded.replaced_by, ewms_workflow_id = excluded.ewms_workflow_id,
        ewms_address = excluded.ewms_address, state = excluded.state, launch_state = excluded.launch_state,
        deactivated = excluded.deactivated, has_final_result = excluded.has_final_result, problems = excluded.problems)
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

-- name: consume_event(consumer, event_id)!
-- Note that a consumer has handled an event; a second time violates consumed_events_pkey.
INSERT INTO consumed_events (consumer, event_id) VALUES (:consumer, :event_id);

-- name: write_scan_request(scan_id, body, rescan_ids)!
INSERT INTO scan_requests (scan_id, body, rescan_ids) VALUES (:scan_id, :body, :rescan_ids)
ON CONFLICT ON CONSTRAINT scan_requests_pkey DO UPDATE SET body = excluded.body, rescan_ids = excluded.rescan_ids;

-- name: write_i3_event(i3_event_id, digest)!
INSERT INTO i3_events (i3_event_id, digest) VALUES (:i3_event_id, :digest)
ON CONFLICT ON CONSTRAINT i3_events_pkey DO NOTHING;

-- name: write_result(scan_id, digest, size, is_final)!
INSERT INTO results (scan_id, digest, size, is_final) VALUES (:scan_id, :digest, :size, :is_final)
ON CONFLICT ON CONSTRAINT results_pkey DO UPDATE SET digest = excluded.digest, size = excluded.size, is_final = excluded.is_final;

-- name: write_backlog(scan_id, priority, queued_at, taken_at, attempts)!
INSERT INTO backlog (scan_id, priority, queued_at, taken_at, attempts)
VALUES (:scan_id, :priority, :queued_at, :taken_at, :attempts)
ON CONFLICT ON CONSTRAINT backlog_pkey DO UPDATE SET taken_at = excluded.taken_at, attempts = excluded.attempts;

-- name: leave_backlog(scan_id)!
DELETE FROM backlog WHERE scan_id = :scan_id;

-- name: write_workforce(scan_id, body)!
INSERT INTO workforces (scan_id, body) VALUES (:scan_id, :body)
ON CONFLICT ON CONSTRAINT workforces_pkey DO UPDATE SET body = excluded.body;

-- name: leave_workforce(scan_id)!
DELETE FROM workforces WHERE scan_id = :scan_id;

-- name: past_cursor(xid, position, most)
-- Committed events after a cursor, in commit-safe order: never past a transaction that is still open. Index: event_log_relay_order.
SELECT xid::text, position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id, data
  FROM event_log
 WHERE (xid, position) > (:xid::xid8, :position) AND xid < pg_snapshot_xmin(pg_current_snapshot())
 ORDER BY event_log.xid, position LIMIT :most;

-- name: history(scan_id, after, most)
-- One scan's events after a version, in order. Index: event_log_scan_version_key.
SELECT position, event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id,
       data, prev_hash, hash
  FROM event_log WHERE scan_id = :scan_id AND version > :after ORDER BY version LIMIT :most;

-- name: relay_cursor(relay)^
SELECT xid::text AS xid, position FROM relay_cursors WHERE relay = :relay;

-- name: move_relay_cursor(relay, xid, position)!
INSERT INTO relay_cursors (relay, xid, position) VALUES (:relay, :xid::text::xid8, :position)
ON CONFLICT ON CONSTRAINT relay_cursors_pkey DO UPDATE SET xid = excluded.xid, position = excluded.position, moved_at = now();

-- name: put_blob(digest, encoding, size, body)!
INSERT INTO blobs (digest, encoding, size, body) VALUES (:digest, :encoding, :size, :body)
ON CONFLICT ON CONSTRAINT blobs_pkey DO NOTHING;

-- name: get_blob(digest)^
SELECT encoding, size, body FROM blobs WHERE digest = :digest;

-- name: has_blob(digest)$
SELECT EXISTS (SELECT FROM blobs WHERE digest = :digest);

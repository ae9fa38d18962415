-- name: last_before(until)^
-- The last event in the order of commits that was recorded before a time. Index: event_log_relay_order, read backwards.
SELECT xid::text, position FROM event_log WHERE recorded_at < :until AND xid < pg_snapshot_xmin(pg_current_snapshot())
 ORDER BY event_log.xid DESC, position DESC LIMIT 1;

-- name: export_blob(digest)^
-- A blob as it is stored. Index: blobs_pkey.
SELECT encoding, size, body FROM blobs WHERE digest = :digest;

-- name: import_blob(digest, encoding, size, body)!
INSERT INTO blobs (digest, encoding, size, body) VALUES (:digest, :encoding, :size, :body)
ON CONFLICT ON CONSTRAINT blobs_pkey DO NOTHING;

-- name: keep_writers_out()!
-- Until the transaction ends. Readers are not held up.
LOCK TABLE event_log IN SHARE ROW EXCLUSIVE MODE;

-- name: has_history()$
SELECT EXISTS (SELECT FROM event_log) OR EXISTS (SELECT FROM manifests);

-- name: continue_positions(last)$
-- The next event's position follows the last one that was imported.
SELECT setval(pg_get_serial_sequence('event_log', 'position'), greatest(:last::bigint, 1));

-- name: begin_relay_after(last)!
-- What was imported is history: it is not published.
INSERT INTO relay_cursors (relay, xid, position) VALUES ('events', pg_current_xact_id(), :last)
ON CONFLICT ON CONSTRAINT relay_cursors_pkey DO UPDATE SET xid = excluded.xid, position = excluded.position, moved_at = now();

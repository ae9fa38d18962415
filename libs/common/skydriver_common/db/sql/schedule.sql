-- name: put(kind, scan_id, due_at, priority, created_at, note)!
-- Note down work; work of this kind that is there already for the scan stays as it is. Index: due_work_pkey.
INSERT INTO due_work (kind, scan_id, due_at, priority, created_at, note)
VALUES (:kind, :scan_id, :due_at, :priority, :created_at, :note)
ON CONFLICT ON CONSTRAINT due_work_pkey DO NOTHING;

-- name: put_all(kinds, scan_ids, due_ats, priorities, created_ats, notes)!
-- The same for many. Index: due_work_pkey.
INSERT INTO due_work (kind, scan_id, due_at, priority, created_at, note)
SELECT kind, scan_id, due_at, priority, created_at, note::jsonb
  FROM unnest(:kinds::text[], :scan_ids::text[], :due_ats::timestamptz[], :priorities::int[], :created_ats::timestamptz[],
              :notes::text[]) AS given (kind, scan_id, due_at, priority, created_at, note)
ON CONFLICT ON CONSTRAINT due_work_pkey DO NOTHING;

-- name: drop_all(kinds, scan_ids)!
-- The same as drop, for many.
DELETE FROM due_work WHERE (kind, scan_id) IN (SELECT * FROM unnest(:kinds::text[], :scan_ids::text[]));

-- name: hasten(kind, scan_id, due_at, priority, created_at, note)!
-- Note down work, or make work that is there already due at once, whoever holds it. Index: due_work_pkey.
INSERT INTO due_work (kind, scan_id, due_at, priority, created_at, note)
VALUES (:kind, :scan_id, :due_at, :priority, :created_at, :note)
ON CONFLICT ON CONSTRAINT due_work_pkey DO UPDATE SET due_at = least(due_work.due_at, excluded.due_at), note = excluded.note;

-- name: put_anew(kind, scan_id, due_at, priority, created_at, note)!
-- Note down work that has to be done after now: who holds it does not finish it by what was done before. Index: due_work_pkey.
INSERT INTO due_work (kind, scan_id, due_at, priority, created_at, note)
VALUES (:kind, :scan_id, :due_at, :priority, :created_at, :note)
ON CONFLICT ON CONSTRAINT due_work_pkey DO UPDATE
   SET due_at = excluded.due_at, note = excluded.note, leased_by = NULL, leased_until = NULL;

-- name: claim(kind, now, lease_s, holder, min_priority)^
-- Lease the most urgent work of a kind that is due. Index: due_work_order.
UPDATE due_work SET leased_by = :holder, leased_until = :now::timestamptz + make_interval(secs => :lease_s), tries = tries + 1
 WHERE (kind, scan_id) = (
    SELECT kind, scan_id FROM due_work
     WHERE kind = :kind AND due_at <= :now AND priority >= :min_priority AND coalesce(leased_until, '-infinity') < :now
     ORDER BY priority DESC, created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING scan_id, priority, created_at, due_at, tries, note;

-- name: finish(kind, scan_id, holder)!
-- The work is done, unless its lease went to somebody else.
DELETE FROM due_work WHERE kind = :kind AND scan_id = :scan_id AND leased_by = :holder;

-- name: drop(kind, scan_id)!
-- The work is not wanted any more, whoever holds it.
DELETE FROM due_work WHERE kind = :kind AND scan_id = :scan_id;

-- name: postpone(kind, scan_id, holder, due_at, note)!
-- Give the lease back and try again later.
UPDATE due_work SET due_at = :due_at, note = :note, leased_by = NULL, leased_until = NULL
 WHERE kind = :kind AND scan_id = :scan_id AND leased_by = :holder;

-- name: release_all(holder)!
-- Give back everything a stopping replica holds.
UPDATE due_work SET leased_by = NULL, leased_until = NULL WHERE leased_by = :holder;

-- name: next_due(kinds)$
-- When the earliest work of these kinds can be claimed, or null. One row is looked at for each: of what nobody holds
-- (due_work_free), and of what is held (due_work_held).
SELECT min(least(
    (SELECT due_at FROM due_work WHERE kind = wanted AND leased_until IS NULL ORDER BY due_at LIMIT 1),
    (SELECT min(greatest(due_at, leased_until)) FROM due_work WHERE kind = wanted AND leased_until IS NOT NULL)))
  FROM unnest(:kinds::text[]) AS wanted;

-- What each statement does to a row that is free, claimed or expired stands in docs/developers/due-work.md. Times are the database's
-- (clock_timestamp()); callers give lengths in seconds.

-- name: put_all(kinds, scan_ids, afters, waiteds, priorities, notes)!
-- Note down work that has to be done after now. A claimed row is due again after its claim. A claim of the previous release, which
-- would delete the row when it is done, loses its lease. An empty note leaves the one that is there. Index: due_work_pkey.
INSERT INTO due_work AS d (kind, scan_id, due_at, priority, created_at, note)
SELECT kind, scan_id, clock_timestamp() + make_interval(secs => after_s), priority,
       clock_timestamp() - make_interval(secs => waited_s), note::jsonb
  FROM unnest(:kinds::text[], :scan_ids::text[], :afters::float8[], :waiteds::float8[], :priorities::int[], :notes::text[])
       AS given (kind, scan_id, after_s, waited_s, priority, note)
ON CONFLICT ON CONSTRAINT due_work_pkey DO UPDATE SET
    due_at = CASE WHEN d.leased_until IS NULL OR d.leased_until < clock_timestamp() THEN least(d.due_at, excluded.due_at)
                  WHEN is_claim_token_v1(d.leased_by) THEN d.due_at
                  ELSE excluded.due_at END,
    again_at = CASE WHEN d.leased_until >= clock_timestamp() AND is_claim_token_v1(d.leased_by)
                    THEN least(d.again_at, excluded.due_at) END,
    leased_by = CASE WHEN d.leased_until >= clock_timestamp() AND is_claim_token_v1(d.leased_by) THEN d.leased_by END,
    leased_until = CASE WHEN d.leased_until >= clock_timestamp() AND is_claim_token_v1(d.leased_by) THEN d.leased_until END,
    priority = greatest(d.priority, excluded.priority),
    note = CASE WHEN excluded.note = '{}' THEN d.note ELSE excluded.note END;

-- name: claim(kind, holder, lease_s, min_priority)^
-- Lease the most urgent work of a kind that is due. Indexes: due_work_held, due_work_claims.
SELECT o_scan_id AS scan_id, o_claim AS claim, o_priority AS priority, o_age_s AS age_s, o_tries AS tries, o_note AS note
  FROM claim_due_v1(:kind, :holder, :lease_s, :min_priority);

-- name: finish_all(kinds, scan_ids, claims)!
-- The work is done, unless it was put again while it was claimed, or the claim is another's by now. Index: due_work_pkey.
DELETE FROM due_work d
 USING unnest(:kinds::text[], :scan_ids::text[], :claims::text[]) AS done (kind, scan_id, claim)
 WHERE d.kind = done.kind AND d.scan_id = done.scan_id AND d.leased_by = done.claim AND d.again_at IS NULL;

-- name: free_all(kinds, scan_ids, claims)!
-- The other half of it: what was put again while it was claimed is a new piece of work. Index: due_work_pkey.
UPDATE due_work d
   SET due_at = d.again_at, again_at = NULL, leased_by = NULL, leased_until = NULL, tries = 0, created_at = clock_timestamp()
  FROM unnest(:kinds::text[], :scan_ids::text[], :claims::text[]) AS done (kind, scan_id, claim)
 WHERE d.kind = done.kind AND d.scan_id = done.scan_id AND d.leased_by = done.claim AND d.again_at IS NOT NULL;

-- name: drop_all(kinds, scan_ids)!
-- The work is not wanted any more, whoever has claimed it. Index: due_work_pkey.
DELETE FROM due_work WHERE (kind, scan_id) IN (SELECT * FROM unnest(:kinds::text[], :scan_ids::text[]));

-- name: postpone(kind, scan_id, claim, after_s, note)!
-- Give the lease back and try again later; earlier, when it was put again meanwhile. A note put meanwhile stays. Index: due_work_pkey.
UPDATE due_work
   SET due_at = least(clock_timestamp() + make_interval(secs => :after_s), again_at),
       note = CASE WHEN again_at IS NULL THEN :note::jsonb ELSE note END,
       again_at = NULL, leased_by = NULL, leased_until = NULL
 WHERE kind = :kind AND scan_id = :scan_id AND leased_by = :claim;

-- name: release_all(holder)!
-- Give back everything a stopping replica has claimed. Index: due_work_held.
UPDATE due_work SET leased_by = NULL, leased_until = NULL, again_at = NULL
 WHERE leased_until IS NOT NULL AND holder_of_claim_v1(leased_by) = :holder;

-- name: seconds_to_next(kinds)$
-- Until the earliest work of these kinds can be claimed, or null. One row is looked at for each: of what nobody has claimed
-- (due_work_free), and of what is claimed (due_work_held).
SELECT extract(epoch FROM min(least(
    (SELECT due_at FROM due_work WHERE kind = wanted AND leased_until IS NULL ORDER BY due_at LIMIT 1),
    (SELECT leased_until FROM due_work WHERE kind = wanted AND leased_until IS NOT NULL ORDER BY leased_until LIMIT 1)))
    - clock_timestamp())::float8
  FROM unnest(:kinds::text[]) AS wanted;

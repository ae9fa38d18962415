-- name: begin_attempt(scan_id, unclear_wait_s)$
-- Note that a workflow is asked for now: when, or null while an earlier request may still come true. Index: ewms_attempts_pkey.
INSERT INTO ewms_attempts AS a (scan_id, first_at, attempted_at) VALUES (:scan_id, clock_timestamp(), clock_timestamp())
ON CONFLICT ON CONSTRAINT ewms_attempts_pkey DO UPDATE SET attempted_at = excluded.attempted_at, longer_s = 0
 WHERE a.attempted_at < clock_timestamp() - make_interval(secs => :unclear_wait_s + a.longer_s)
RETURNING attempted_at;

-- name: attempt(scan_id, unclear_wait_s)^
-- The last request for a workflow whose outcome is open, and for how long it may still come true, or nothing. Index:
-- ewms_attempts_pkey.
SELECT attempted_at, longer_s,
       extract(epoch FROM attempted_at - clock_timestamp())::float8 + :unclear_wait_s + longer_s AS open_for_s
  FROM ewms_attempts WHERE scan_id = :scan_id;

-- name: lengthen_attempt(scan_id, attempted_at, longer_s)!
-- This request may come true so much later than others. Index: ewms_attempts_pkey.
UPDATE ewms_attempts SET longer_s = :longer_s WHERE scan_id = :scan_id AND attempted_at = :attempted_at;

-- name: withdraw_attempt(scan_id, attempted_at, earlier_at, longer_s)!
-- This request has surely made nothing: an earlier one is the last again. Index: ewms_attempts_pkey.
UPDATE ewms_attempts SET attempted_at = :earlier_at, longer_s = :longer_s
 WHERE scan_id = :scan_id AND attempted_at = :attempted_at;

-- name: forget_attempt(scan_id, attempted_at)!
-- The outcome of this request is known, and there was no other since. Index: ewms_attempts_pkey.
DELETE FROM ewms_attempts WHERE scan_id = :scan_id AND attempted_at = :attempted_at;

-- name: watch(scan_id, workflow_id, now)!
-- Ask for this workflow's workers from now on. Index: ewms_watch_pkey.
INSERT INTO ewms_watch (scan_id, workflow_id, since, refresh_at) VALUES (:scan_id, :workflow_id, :now, :now)
ON CONFLICT ON CONSTRAINT ewms_watch_pkey DO NOTHING;

-- name: unwatch(scan_id, workflow_id, now)!
-- Do not ask any more; when it was asked last is kept. Index: ewms_watch_pkey.
INSERT INTO ewms_watch (scan_id, workflow_id, since, refresh_at) VALUES (:scan_id, :workflow_id, :now, NULL)
ON CONFLICT ON CONSTRAINT ewms_watch_pkey DO UPDATE SET refresh_at = NULL;

-- name: claim_watched(ahead_s, hold_s, most)
-- Take all workflows that are due soon; another replica skips them for hold_s. (now(), which stands still in a statement: an index can
-- be searched for it.) Index: ewms_watch_order.
UPDATE ewms_watch SET refresh_at = clock_timestamp() + make_interval(secs => :hold_s)
 WHERE EXISTS (SELECT FROM ewms_watch WHERE refresh_at <= now())
   AND scan_id IN (SELECT scan_id FROM ewms_watch WHERE refresh_at <= now() + make_interval(secs => :ahead_s)
                    ORDER BY refresh_at LIMIT :most FOR UPDATE SKIP LOCKED)
RETURNING scan_id, workflow_id, since, seen AS digest, eyes_until AS viewed_until;

-- name: refreshed(scan_ids, digests, refresh_ats, now)!
-- Note what was reported of these workflows, and when to ask again. Index: ewms_watch_pkey.
UPDATE ewms_watch w SET seen = r.seen, refresh_at = r.refresh_at, refreshed_at = :now
  FROM unnest(:scan_ids::text[], :digests::text[], :refresh_ats::timestamptz[]) AS r (scan_id, seen, refresh_at)
 WHERE w.scan_id = r.scan_id AND w.refresh_at IS NOT NULL;

-- name: release_watched(scan_ids, refresh_at)!
-- Give workflows back that could not be asked for. Index: ewms_watch_pkey.
UPDATE ewms_watch SET refresh_at = :refresh_at WHERE scan_id = ANY(:scan_ids) AND refresh_at IS NOT NULL;

-- name: hasten_watched(scan_id, now)!
-- Ask for this workflow's workers at once, unless they are over. Index: ewms_watch_pkey.
UPDATE ewms_watch SET refresh_at = :now WHERE scan_id = :scan_id AND refresh_at IS NOT NULL;

-- name: note_viewers(scan_ids, until, soon)$
-- Somebody views these scans: true, or null when that was known or their workers are over. Index: ewms_watch_pkey.
UPDATE ewms_watch SET eyes_until = :until, refresh_at = least(refresh_at, :soon)
 WHERE scan_id = ANY(:scan_ids) AND refresh_at IS NOT NULL AND (eyes_until IS NULL OR eyes_until < :soon)
RETURNING true;

-- name: oldest_knowledge_s()$
-- How old the oldest worker count is of those that are refreshed; one that was never read is as old as its workflow. Index: ewms_watch_order.
SELECT coalesce(extract(epoch FROM clock_timestamp() - min(coalesce(refreshed_at, since))), 0)::float8
  FROM ewms_watch WHERE refresh_at IS NOT NULL;

-- name: next_refresh()$
-- When the next workflow is due, or null. Index: ewms_watch_order.
SELECT min(refresh_at) FROM ewms_watch;

-- name: unclaimed_addition(scan_id, cluster_location, n_workers)^
-- The request for workers of this shape whose response nobody has got yet. Index: ewms_additions_open.
SELECT addition_id, scan_id, workflow_id, cluster_location, n_workers, asked_at, held_until, task_id, before, attempted_at,
       taskforce_uuid, got_n_workers, is_automatic
  FROM ewms_additions
 WHERE scan_id = :scan_id AND cluster_location = :cluster_location AND n_workers = :n_workers AND NOT is_told
   AND NOT is_automatic
   FOR UPDATE;

-- name: users_additions(scan_id)
-- What users have asked for beyond the scan's request, also without a response yet. Index: ewms_additions_scan.
SELECT cluster_location, sum(coalesce(got_n_workers, n_workers))::bigint AS n_workers
  FROM ewms_additions WHERE scan_id = :scan_id AND NOT is_automatic GROUP BY cluster_location;

-- name: unclear_addition(scan_id)^
-- One request of this scan whose outcome is open and that no replica processes. Index: ewms_additions_scan.
SELECT addition_id, scan_id, workflow_id, cluster_location, n_workers, asked_at, held_until, task_id, before, attempted_at,
       taskforce_uuid, got_n_workers, is_automatic
  FROM ewms_additions
 WHERE scan_id = :scan_id AND NOT is_told AND taskforce_uuid IS NULL AND held_until < clock_timestamp()
 ORDER BY asked_at LIMIT 1 FOR UPDATE SKIP LOCKED;

-- name: seconds_held(scan_id)$
-- For how long replicas may still process open requests of this scan, or null. Index: ewms_additions_scan.
SELECT greatest(0, extract(epoch FROM max(held_until) - clock_timestamp()))::float8
  FROM ewms_additions WHERE scan_id = :scan_id AND NOT is_told AND taskforce_uuid IS NULL;

-- name: has_open_replacement(scan_id)$
-- Index: ewms_additions_scan.
SELECT EXISTS (SELECT FROM ewms_additions WHERE scan_id = :scan_id AND is_automatic AND NOT is_told);

-- name: new_addition(scan_id, workflow_id, cluster_location, n_workers, now, held_until, is_automatic)$
INSERT INTO ewms_additions (scan_id, workflow_id, cluster_location, n_workers, asked_at, held_until, is_automatic)
VALUES (:scan_id, :workflow_id, :cluster_location, :n_workers, :now, :held_until, :is_automatic) RETURNING addition_id;

-- name: hold_addition(addition_id, held_until)!
-- Lease a request. Index: ewms_additions_pkey.
UPDATE ewms_additions SET held_until = :held_until WHERE addition_id = :addition_id;

-- name: release_addition(addition_id, held_until, now)!
-- End the lease of a request, if its holder still has it. Index: ewms_additions_pkey.
UPDATE ewms_additions SET held_until = :now WHERE addition_id = :addition_id AND held_until = :held_until;

-- name: attempt_addition(addition_id, held_until, task_id, before, now)$
-- Note that EWMS is asked now, and what existed before: true, or null when the request was dropped or another replica holds it. Index:
-- ewms_additions_pkey.
UPDATE ewms_additions SET task_id = :task_id, before = :before, attempted_at = :now
 WHERE addition_id = :addition_id AND held_until = :held_until
RETURNING true;

-- name: unattempt_addition(addition_id, held_until)!
-- EWMS has surely done nothing. Index: ewms_additions_pkey.
UPDATE ewms_additions SET attempted_at = NULL WHERE addition_id = :addition_id AND held_until = :held_until;

-- name: resolve_addition(addition_id, taskforce_uuid, got_n_workers, is_told)!
-- The workers are there. Index: ewms_additions_pkey.
UPDATE ewms_additions SET taskforce_uuid = :taskforce_uuid, got_n_workers = :got_n_workers, is_told = :is_told,
                          held_until = '-infinity'
 WHERE addition_id = :addition_id;

-- name: drop_addition(addition_id)!
-- EWMS has surely done nothing and will not. Index: ewms_additions_pkey.
DELETE FROM ewms_additions WHERE addition_id = :addition_id;

-- name: taken_taskforces(scan_id)
-- Taskforces that were the response to some request already. Index: ewms_additions_scan.
SELECT taskforce_uuid FROM ewms_additions WHERE scan_id = :scan_id AND taskforce_uuid IS NOT NULL;

-- name: kept_taskforces(scan_id)^
-- The taskforces as fetched last, or nothing. Index: ewms_taskforces_pkey.
SELECT fetched_at, body FROM ewms_taskforces WHERE scan_id = :scan_id;

-- name: keep_taskforces(scan_id, now, body)!
INSERT INTO ewms_taskforces (scan_id, fetched_at, body) VALUES (:scan_id, :now, :body)
ON CONFLICT ON CONSTRAINT ewms_taskforces_pkey DO UPDATE SET fetched_at = excluded.fetched_at, body = excluded.body;

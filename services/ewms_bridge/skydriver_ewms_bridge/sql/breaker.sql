-- name: outage()^
-- How EWMS was found last, by any replica; no row: it has always responded.
SELECT failures, openings, since, open_until, extract(epoch FROM open_until - clock_timestamp())::float8 AS remaining_open_s,
       extract(epoch FROM clock_timestamp() - recovered_at)::float8 AS recovered_ago_s
  FROM ewms_outages WHERE name = 'ewms';

-- name: failed(threshold, first_s, cap_s, jitter, at_least_s)$
-- One more call without a response; from the threshold on the circuit is open for a while, and failures of calls that were
-- in progress do not count. Returns until when, or null.
INSERT INTO ewms_outages AS o (name, failures, openings, since) VALUES ('ewms', 1, 0, clock_timestamp())
ON CONFLICT ON CONSTRAINT ewms_outages_pkey DO UPDATE SET
    failures = o.failures + 1,
    since = CASE WHEN o.failures = 0 THEN excluded.since ELSE o.since END,
    openings = o.openings + (o.failures + 1 >= :threshold)::int,
    open_until = CASE WHEN o.failures + 1 >= :threshold THEN
        excluded.since + make_interval(secs => greatest(:at_least_s::float8, least(:cap_s::float8, :first_s::float8 * 2 ^ least(o.openings, 20)) * :jitter::float8)) END
 WHERE o.open_until IS NULL
RETURNING open_until;

-- name: answered()!
-- EWMS does its work: whatever failed before is over.
UPDATE ewms_outages SET failures = 0, openings = 0 WHERE name = 'ewms' AND open_until IS NULL AND failures > 0;

-- name: beat()!
-- The bridge works: a row beside the one of EWMS, which says when it last did.
INSERT INTO ewms_outages (name, failures, openings, since) VALUES ('bridge', 0, 0, clock_timestamp())
ON CONFLICT ON CONSTRAINT ewms_outages_pkey DO UPDATE SET since = excluded.since;

-- name: claim_probe(hold_s)$
-- Claim the one probe by which it is found out whether EWMS is available again: true for one replica only.
UPDATE ewms_outages SET open_until = clock_timestamp() + make_interval(secs => :hold_s)
 WHERE name = 'ewms' AND open_until <= clock_timestamp() RETURNING true;

-- name: probe_failed(first_s, cap_s, jitter, at_least_s)$
UPDATE ewms_outages SET openings = openings + 1,
    open_until = clock_timestamp() + make_interval(secs => greatest(:at_least_s::float8, least(:cap_s::float8, :first_s::float8 * 2 ^ least(openings, 20)) * :jitter::float8))
 WHERE name = 'ewms' RETURNING open_until;

-- name: probe_answered(failures)!
-- The circuit closes. EWMS has not proved to work yet: the next failure opens it at once, for longer.
UPDATE ewms_outages SET open_until = NULL, failures = :failures, recovered_at = clock_timestamp() WHERE name = 'ewms';

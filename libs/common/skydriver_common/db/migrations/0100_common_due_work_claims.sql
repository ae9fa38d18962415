-- Due work: each claim has a token of its own, what is put while a row is claimed is not lost, and all times are the database's.
-- The previous release runs beside this one for a while: nothing that its statements use is changed or removed.

ALTER TABLE due_work ADD COLUMN again_at timestamptz;
COMMENT ON COLUMN due_work.again_at IS 'put while the row was claimed: when it is due again after this claim; null: not at all';
COMMENT ON COLUMN due_work.leased_by IS 'token of the claim, as <replica>#<uuid>: only who shows it may finish or postpone; null: free';

-- Whether a lease is of a claim that has a token of its own. The previous release's leases bear the replica's name alone.
CREATE FUNCTION is_claim_token_v1(leased_by text) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN leased_by ~ '#[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$';

-- The token of a new claim.
CREATE FUNCTION new_claim_token_v1(holder text) RETURNS text LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN holder || '#' || gen_random_uuid()::text;

-- Who holds the claim with this token.
CREATE FUNCTION holder_of_claim_v1(leased_by text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN is_claim_token_v1(leased_by) THEN left(leased_by, -37) ELSE leased_by END;

-- Leases the most urgent work of a kind that is due: what a dead holder has left first, then by priority, then by due time. It looks
-- at one row for each priority that is there, however many rows are not due, and however many rows others have claimed.
CREATE FUNCTION claim_due_v1(p_kind text, p_holder text, p_lease_s double precision, p_min_priority integer)
    RETURNS TABLE (o_scan_id text, o_claim text, o_priority integer, o_age_s double precision, o_tries integer, o_note jsonb)
    LANGUAGE plpgsql AS $$
DECLARE
    at     timestamptz := clock_timestamp();
    level  bigint := 2147483648;
    chosen text;
BEGIN
    SELECT d.scan_id INTO chosen FROM due_work d
     WHERE d.kind = p_kind AND d.leased_until IS NOT NULL AND d.leased_until < at AND d.priority >= p_min_priority
     ORDER BY d.priority DESC, d.due_at LIMIT 1 FOR UPDATE SKIP LOCKED;
    WHILE chosen IS NULL LOOP
        SELECT d.priority INTO level FROM due_work d
         WHERE d.kind = p_kind AND d.leased_until IS NULL AND d.priority >= p_min_priority AND d.priority < level
         ORDER BY d.priority DESC LIMIT 1;
        EXIT WHEN NOT FOUND;
        SELECT d.scan_id INTO chosen FROM due_work d
         WHERE d.kind = p_kind AND d.leased_until IS NULL AND d.priority = level::integer AND d.due_at <= at
         ORDER BY d.due_at LIMIT 1 FOR UPDATE SKIP LOCKED;
    END LOOP;
    RETURN QUERY UPDATE due_work d
       SET leased_by = new_claim_token_v1(p_holder), leased_until = clock_timestamp() + make_interval(secs => p_lease_s),
           tries = d.tries + 1, again_at = NULL
     WHERE d.kind = p_kind AND d.scan_id = chosen
    RETURNING d.scan_id, d.leased_by, d.priority, extract(epoch FROM at - d.created_at)::double precision, d.tries, d.note;
END $$;

-- Version 1 with the database's clock and the claim's token. o_interval_place: the place in the interval that this claim has taken; it
-- is given back when no launch comes of it.
CREATE FUNCTION claim_launch_v2(p_holder text, p_lease_s double precision)
    RETURNS TABLE (o_scan_id text, o_claim text, o_priority integer, o_age_s double precision, o_tries integer, o_note jsonb,
                   o_interval_place timestamptz, o_wait_s double precision)
    LANGUAGE plpgsql AS $$
DECLARE
    at      timestamptz := clock_timestamp();
    chosen  text;
    gate    launch_throttle%ROWTYPE;
    pause   double precision;
    cap     integer;
    busy    bigint := 0;
    place   timestamptz;
    next_at timestamptz;
BEGIN
    SELECT d.scan_id INTO chosen FROM due_work d
     WHERE d.kind = 'launch' AND d.priority >= 100 AND d.due_at <= at AND coalesce(d.leased_until, '-infinity') < at
     ORDER BY d.priority DESC, d.created_at LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF chosen IS NULL THEN
        SELECT * INTO gate FROM launch_throttle;
        pause := coalesce(gate.interval_s, gate.default_interval_s);
        cap := coalesce(gate.max_running, gate.default_max_running);
        IF (pause > 0 OR cap IS NOT NULL) AND greatest(gate.next_at, gate.held_until, gate.no_room_until) <= at THEN
            -- one replica at a time counts and takes; each statement sees what the one before it has committed
            SELECT * INTO gate FROM launch_throttle FOR UPDATE;
            at := clock_timestamp();
            IF cap IS NOT NULL THEN
                -- in one statement: a launch that is written down meanwhile must not fall between two snapshots
                SELECT (SELECT count(*) FROM (SELECT FROM manifests m
                          WHERE m.launch_state = 'launched' AND NOT m.is_deleted AND NOT m.has_final_result LIMIT cap) AS running)
                     + (SELECT count(*) FROM due_work d
                          WHERE d.kind = 'launch' AND d.leased_until IS NOT NULL AND d.leased_until >= at) INTO busy;
            END IF;
        END IF;
        IF greatest(gate.next_at, gate.held_until, gate.no_room_until) <= at AND busy < coalesce(cap, 2147483647) THEN
            SELECT d.scan_id INTO chosen FROM due_work d
             WHERE d.kind = 'launch' AND d.priority < 100 AND d.due_at <= at AND coalesce(d.leased_until, '-infinity') < at
             ORDER BY launch_rank_v1(d.priority, d.created_at) DESC LIMIT 1 FOR UPDATE SKIP LOCKED;
            IF chosen IS NOT NULL AND pause > 0 THEN
                UPDATE launch_throttle t SET next_at = at + make_interval(secs => pause) RETURNING t.next_at INTO place;
            END IF;
        END IF;
    END IF;
    IF chosen IS NOT NULL THEN
        RETURN QUERY UPDATE due_work d
           SET leased_by = new_claim_token_v1(p_holder), leased_until = clock_timestamp() + make_interval(secs => p_lease_s),
               tries = d.tries + 1, again_at = NULL
         WHERE d.kind = 'launch' AND d.scan_id = chosen
        RETURNING d.scan_id, d.leased_by, d.priority, extract(epoch FROM at - d.created_at)::double precision, d.tries, d.note,
                  place, NULL::double precision;
        RETURN;
    END IF;
    next_at := (SELECT min(greatest(d.due_at, coalesce(d.leased_until, '-infinity'))) FROM due_work d
                 WHERE d.kind = 'launch' AND d.priority >= 100);
    IF EXISTS (SELECT FROM due_work d WHERE d.kind = 'launch' AND d.priority < 100) THEN
        next_at := least(next_at, CASE
            WHEN greatest(gate.next_at, gate.held_until, gate.no_room_until) > at THEN greatest(gate.next_at, gate.held_until, gate.no_room_until)
            WHEN busy >= coalesce(cap, 2147483647) THEN at + interval '2 seconds'
            ELSE (SELECT d.due_at FROM due_work d
                   WHERE d.kind = 'launch' AND d.leased_until IS NULL AND d.due_at > at ORDER BY d.due_at LIMIT 1) END);
    END IF;
    RETURN QUERY SELECT NULL::text, NULL::text, NULL::integer, NULL::double precision, NULL::integer, NULL::jsonb, NULL::timestamptz,
                        greatest(0, extract(epoch FROM next_at - at))::double precision;
END $$;

-- Waiting for room ends when something has made room, waiting for an answer does not; and the cap counts in one look.
ALTER TABLE launch_throttle
    ADD COLUMN no_room_until   timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN no_room_because text NOT NULL DEFAULT '';
COMMENT ON COLUMN launch_throttle.held_until IS 'nothing starts before: the cluster did not answer, or asked for patience';
COMMENT ON COLUMN launch_throttle.no_room_until IS 'nothing starts before, unless a Job ends: the cluster had no room';

CREATE OR REPLACE FUNCTION claim_launch_v1(p_now timestamptz, p_lease_s double precision, p_holder text)
    RETURNS TABLE (o_scan_id text, o_priority integer, o_created_at timestamptz, o_due_at timestamptz, o_tries integer,
                   o_note jsonb, o_wait_s double precision)
    LANGUAGE plpgsql AS $$
DECLARE
    chosen  text;
    gate    launch_throttle%ROWTYPE;
    pause   double precision;
    cap     integer;
    busy    bigint := 0;
    next_at timestamptz;
BEGIN
    SELECT d.scan_id INTO chosen FROM due_work d
     WHERE d.kind = 'launch' AND d.priority >= 100 AND d.due_at <= p_now AND coalesce(d.leased_until, '-infinity') < p_now
     ORDER BY d.priority DESC, d.created_at LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF chosen IS NULL THEN
        SELECT * INTO gate FROM launch_throttle;
        pause := coalesce(gate.interval_s, gate.default_interval_s);
        cap := coalesce(gate.max_running, gate.default_max_running);
        IF (pause > 0 OR cap IS NOT NULL) AND greatest(gate.next_at, gate.held_until, gate.no_room_until) <= p_now THEN
            -- one replica at a time counts and takes; each statement sees what the one before it has committed
            SELECT * INTO gate FROM launch_throttle FOR UPDATE;
            IF cap IS NOT NULL THEN
                -- in one statement: a launch that is written down meanwhile must not fall between two snapshots
                SELECT (SELECT count(*) FROM (SELECT FROM manifests m
                          WHERE m.launch_state = 'launched' AND NOT m.is_deleted AND NOT m.has_final_result LIMIT cap) AS running)
                     + (SELECT count(*) FROM due_work d
                          WHERE d.kind = 'launch' AND d.leased_until IS NOT NULL AND d.leased_until >= p_now) INTO busy;
            END IF;
        END IF;
        IF greatest(gate.next_at, gate.held_until, gate.no_room_until) <= p_now AND busy < coalesce(cap, 2147483647) THEN
            SELECT d.scan_id INTO chosen FROM due_work d
             WHERE d.kind = 'launch' AND d.priority < 100 AND d.due_at <= p_now AND coalesce(d.leased_until, '-infinity') < p_now
             ORDER BY launch_rank_v1(d.priority, d.created_at) DESC LIMIT 1 FOR UPDATE SKIP LOCKED;
            IF chosen IS NOT NULL AND pause > 0 THEN
                UPDATE launch_throttle SET next_at = p_now + make_interval(secs => pause);
            END IF;
        END IF;
    END IF;
    IF chosen IS NOT NULL THEN
        RETURN QUERY UPDATE due_work d
           SET leased_by = p_holder, leased_until = p_now + make_interval(secs => p_lease_s), tries = d.tries + 1
         WHERE d.kind = 'launch' AND d.scan_id = chosen
        RETURNING d.scan_id, d.priority, d.created_at, d.due_at, d.tries, d.note, NULL::double precision;
        RETURN;
    END IF;
    next_at := (SELECT min(greatest(d.due_at, coalesce(d.leased_until, '-infinity'))) FROM due_work d
                 WHERE d.kind = 'launch' AND d.priority >= 100);
    IF EXISTS (SELECT FROM due_work d WHERE d.kind = 'launch' AND d.priority < 100) THEN
        next_at := least(next_at, CASE
            WHEN greatest(gate.next_at, gate.held_until, gate.no_room_until) > p_now THEN greatest(gate.next_at, gate.held_until, gate.no_room_until)
            WHEN busy >= coalesce(cap, 2147483647) THEN p_now + interval '2 seconds'
            ELSE (SELECT d.due_at FROM due_work d
                   WHERE d.kind = 'launch' AND d.leased_until IS NULL AND d.due_at > p_now ORDER BY d.due_at LIMIT 1) END);
    END IF;
    RETURN QUERY SELECT NULL::text, NULL::integer, NULL::timestamptz, NULL::timestamptz, NULL::integer, NULL::jsonb,
                        greatest(0, extract(epoch FROM next_at - p_now))::double precision;
END $$;

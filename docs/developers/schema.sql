-- The schema that all migrations come to, for reading. Made by `make docs` from a migrated database; nothing applies it.
-- Who may do what stands in deploy/postgres/roles.sql.

CREATE FUNCTION public.break_glass(reason text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
DECLARE
    who       text := session_user;
    at        timestamptz := clock_timestamp();
    us        bigint := (extract(epoch FROM at) * 1000000)::bigint;
    stamp     text := lpad(to_hex(us / 1000), 12, '0');
    id        uuid := (substr(stamp, 1, 8) || '-' || substr(stamp, 9) || '-7' || substr(gen_random_uuid()::text, 16))::uuid;
    command   text := 'break-glass:' || id;
    body      bytea;
    number    integer;
    previous  bytea;
    chained   bytea;
    made      bigint;
BEGIN
    IF coalesce(btrim(reason), '') = '' THEN
        RAISE EXCEPTION 'break_glass needs a reason' USING ERRCODE = 'SD003';
    END IF;
    IF pg_current_xact_id_if_assigned() IS NOT NULL AND NOT EXISTS (  -- the other function would give it an id as the plan is made
        SELECT FROM event_log WHERE xid = pg_current_xact_id_if_assigned() AND type = 'system.break-glass-used') THEN
        RAISE EXCEPTION 'break_glass comes before any other change in its transaction' USING ERRCODE = 'SD003';
    END IF;
    PERFORM pg_advisory_xact_lock(7311003);  -- as log/system_log.py: one writer of the system's history at a time
    SELECT version + 1, hash INTO number, previous FROM event_log WHERE scan_id = 'system' ORDER BY version DESC LIMIT 1;
    number := coalesce(number, 1);
    previous := coalesce(previous, decode(repeat('00', 32), 'hex'));
    body := convert_to('{"reason":' || to_json(reason) || ',"database_role":' || to_json(who) || '}', 'UTF8');
    chained := sha256(previous || convert_to('["' || id || '","system",' || number || ',"system.break-glass-used",1,' || us || ','
        || to_json('database:' || who) || ',' || to_json(command) || ',' || to_json(command) || ']' || chr(10), 'UTF8') || sha256(body));
    INSERT INTO event_log (event_id, scan_id, version, type, schema_version, recorded_at, actor, command_id, correlation_id, data,
                           prev_hash, hash)
    VALUES (id, 'system', number, 'system.break-glass-used', 1, at, 'database:' || who, command, command, body, previous, chained)
    RETURNING position INTO made;
    PERFORM pg_notify('skydriver_log', '');
    RETURN made;
END
$$;

COMMENT ON FUNCTION public.break_glass(reason text) IS 'Opens the event log for changes until the transaction ends; leaves an event';

CREATE FUNCTION public.claim_due_v1(p_kind text, p_holder text, p_lease_s double precision, p_min_priority integer) RETURNS TABLE(o_scan_id text, o_claim text, o_priority integer, o_age_s double precision, o_tries integer, o_note jsonb)
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.claim_launch_v1(p_now timestamp with time zone, p_lease_s double precision, p_holder text) RETURNS TABLE(o_scan_id text, o_priority integer, o_created_at timestamp with time zone, o_due_at timestamp with time zone, o_tries integer, o_note jsonb, o_wait_s double precision)
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.claim_launch_v2(p_holder text, p_lease_s double precision) RETURNS TABLE(o_scan_id text, o_claim text, o_priority integer, o_age_s double precision, o_tries integer, o_note jsonb, o_interval_place timestamp with time zone, o_wait_s double precision)
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.drop_orphan_blobs(before timestamp with time zone, after_digest text, most integer, OUT gone bigint, OUT bytes bigint, OUT next_digest text) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
DECLARE
    looked_at text[];
BEGIN
    SELECT array_agg(digest ORDER BY digest) INTO looked_at
      FROM (SELECT digest FROM blobs WHERE digest > after_digest ORDER BY digest LIMIT most) part;
    IF cardinality(looked_at) = most THEN
        next_digest := looked_at[most];
    END IF;
    WITH dropped AS (
        DELETE FROM blobs b WHERE b.digest = ANY (looked_at) AND b.stored_at < least(before, now() - interval '1 day')
           AND NOT EXISTS (SELECT FROM i3_events i WHERE i.digest = b.digest)
           AND NOT EXISTS (SELECT FROM result_digests r WHERE r.digest = b.digest)
        RETURNING octet_length(b.body) AS size)
    SELECT count(*), coalesce(sum(size), 0) INTO gone, bytes FROM dropped;
END
$$;

CREATE FUNCTION public.drop_superseded_results(of_scan text, keep_from integer, most integer, OUT results bigint, OUT bytes bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
DECLARE
    first integer;
BEGIN
    IF NOT EXISTS (SELECT FROM event_log WHERE scan_id = of_scan AND version = keep_from AND type = 'scan.result-received') THEN
        RAISE EXCEPTION 'no later result is kept' USING ERRCODE = 'SD002';
    END IF;
    SELECT min(version) INTO first FROM event_log WHERE scan_id = of_scan AND type = 'scan.result-received';
    WITH superseded AS (
        SELECT DISTINCT result_digest_of(e.data) AS digest FROM event_log e
         WHERE e.scan_id = of_scan AND e.version > first AND e.version < keep_from AND e.type = 'scan.result-received'
           AND position('"is_final":false'::bytea IN e.data) > 0),
    chosen AS (
        SELECT b.digest FROM superseded s JOIN blobs b ON b.digest = s.digest
         WHERE b.stored_at < now() - interval '1 day'
           AND NOT EXISTS (SELECT FROM i3_events i WHERE i.digest = b.digest)
           AND NOT EXISTS (SELECT FROM result_digests r WHERE r.digest = b.digest
                              AND (r.scan_id <> of_scan OR r.version <= first OR r.version >= keep_from))
         LIMIT most FOR UPDATE OF b SKIP LOCKED),
    dropped AS (DELETE FROM blobs b USING chosen c WHERE b.digest = c.digest RETURNING octet_length(b.body) AS size)
    SELECT count(*), coalesce(sum(size), 0) INTO results, bytes FROM dropped;
END
$$;

CREATE FUNCTION public.find_keys_of(body bytea) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    d jsonb := convert_from(body, 'UTF8')::jsonb;
BEGIN
    RETURN jsonb_build_object(
        'timestamp', d -> 'timestamp',
        'i3_event_id', d -> 'i3_event_id',
        'ewms_workflow_id', d -> 'ewms_workflow_id',
        'replaced_by_scan_id', d -> 'replaced_by_scan_id',
        'classifiers', d -> 'classifiers',
        'event_metadata', d -> 'event_metadata',
        'progress', CASE
            WHEN jsonb_typeof(d -> 'progress') = 'object' THEN
                jsonb_build_object('processing_stats', jsonb_build_object('finished', d #> '{progress,processing_stats,finished}'))
            ELSE d -> 'progress'
        END
    );
END
$$;

CREATE FUNCTION public.forget_replies(before timestamp with time zone, most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
DECLARE
    gone bigint;
BEGIN
    DELETE FROM command_replies WHERE command_id IN (
        SELECT command_id FROM command_replies WHERE recorded_at < least(before, now() - interval '1 day')
         ORDER BY recorded_at LIMIT most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$$;

CREATE FUNCTION public.forget_replies_without_key(most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
DECLARE
    gone bigint;
BEGIN
    DELETE FROM command_replies WHERE command_id IN (
        SELECT command_id FROM command_replies
         WHERE substr(command_id, 15, 1) = '4' AND length(command_id) = 36 AND recorded_at < now() - interval '15 minutes'
         ORDER BY recorded_at LIMIT most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$$;

CREATE FUNCTION public.is_claim_token_v1(leased_by text) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (leased_by ~ '#[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'::text);

CREATE FUNCTION public.holder_of_claim_v1(leased_by text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN public.is_claim_token_v1(leased_by) THEN "left"(leased_by, '-37'::integer) ELSE leased_by END;

CREATE TABLE public.event_log (
    "position" bigint NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    event_id uuid NOT NULL,
    scan_id text NOT NULL COLLATE pg_catalog."C",
    version integer NOT NULL,
    type text NOT NULL COLLATE pg_catalog."C",
    schema_version smallint NOT NULL,
    recorded_at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    command_id text NOT NULL,
    correlation_id text NOT NULL,
    data bytea NOT NULL,
    prev_hash bytea NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT event_log_version_positive CHECK ((version > 0))
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_analyze_scale_factor='0.02');

COMMENT ON TABLE public.event_log IS 'The truth: append-only, one row per fact about one scan';

CREATE FUNCTION public.is_letting_go_of_progress(before public.event_log, after public.event_log) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
DECLARE
    callers text;
BEGIN
    GET DIAGNOSTICS callers = PG_CONTEXT;
    IF position('function let_go_of_progress(text,integer,integer)' IN callers) = 0
        OR before.type <> 'scan.progress-reported' OR get_byte(before.data, 0) = 0
        OR after.data <> '\x00'::bytea || sha256(before.data) THEN
        RETURN false;
    END IF;
    before.data := after.data;
    RETURN before IS NOT DISTINCT FROM after;
END
$$;

CREATE FUNCTION public.json_of(body bytea) RETURNS jsonb
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (convert_from(body, 'UTF8'::name))::jsonb;

CREATE FUNCTION public.launch_rank_v1(priority integer, since timestamp with time zone) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (((priority)::double precision * (900.0)::double precision) - (EXTRACT(epoch FROM (since AT TIME ZONE 'UTC'::text)))::double precision);

CREATE FUNCTION public.let_go_of_progress(of_scan text, keep_from integer, most integer, OUT payloads bigint, OUT bytes bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
DECLARE
    old bigint[];
BEGIN
    IF NOT EXISTS (SELECT FROM event_log WHERE scan_id = of_scan AND version = keep_from
                      AND type = 'scan.progress-reported' AND get_byte(data, 0) <> 0) THEN
        RAISE EXCEPTION 'no later progress report is kept' USING ERRCODE = 'SD002';
    END IF;
    SELECT coalesce(array_agg(o.position), '{}'), count(*), coalesce(sum(octet_length(o.data)), 0) INTO old, payloads, bytes
      FROM (SELECT e.position, e.data FROM event_log e WHERE e.scan_id = of_scan AND e.version < keep_from
               AND e.type = 'scan.progress-reported' AND get_byte(e.data, 0) <> 0 ORDER BY e.version LIMIT most) o;
    UPDATE event_log e SET data = '\x00'::bytea || sha256(e.data) WHERE e.position = ANY (old);
END
$$;

CREATE FUNCTION public.new_claim_token_v1(holder text) RETURNS text
    LANGUAGE sql PARALLEL SAFE
    RETURN ((holder || '#'::text) || (gen_random_uuid())::text);

CREATE FUNCTION public.note_result_digest() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
BEGIN
    INSERT INTO result_digests (digest, scan_id, version) VALUES (coalesce(result_digest_of(NEW.data), ''), NEW.scan_id, NEW.version)
        ON CONFLICT ON CONSTRAINT result_digests_pkey DO NOTHING;
    RETURN NULL;
END
$$;

CREATE FUNCTION public.refuse_change_of_the_event_log() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
BEGIN
    IF TG_OP <> 'TRUNCATE' AND EXISTS (SELECT FROM event_log WHERE xid = pg_current_xact_id() AND type = 'system.break-glass-used') THEN
        IF OLD.type <> 'system.break-glass-used' THEN
            RETURN CASE TG_OP WHEN 'UPDATE' THEN NEW ELSE OLD END;
        END IF;
    END IF;
    RAISE EXCEPTION 'the event log is append-only' USING ERRCODE = 'SD001',
        HINT = 'In an emergency: SELECT break_glass(''why''), then the change, in one transaction.';
END
$$;

CREATE FUNCTION public.refuse_unrecorded_letting_go() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM event_log WHERE scan_id = NEW.scan_id AND version > NEW.version
                      AND type = 'scan.progress-compacted' AND xid = pg_current_xact_id()) THEN
        RAISE EXCEPTION 'payloads of the event log are let go only together with the event that says so' USING ERRCODE = 'SD002';
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION public.result_digest_of(data bytea) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN "substring"(encode(SUBSTRING(data FROM 1 FOR 200), 'escape'::text), '"digest":"(sha256:[0-9a-f]{64})"'::text);

CREATE TABLE public.backlog (
    scan_id text NOT NULL COLLATE pg_catalog."C",
    priority integer NOT NULL,
    queued_at double precision NOT NULL,
    taken_at double precision NOT NULL,
    attempts integer NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500', fillfactor='70');

COMMENT ON TABLE public.backlog IS 'Scans that wait for their launch; times are Unix seconds, taken_at 0 = never';

CREATE TABLE public.blobs (
    digest text NOT NULL COLLATE pg_catalog."C",
    encoding text NOT NULL,
    size bigint NOT NULL,
    body bytea NOT NULL,
    stored_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT blobs_encoding_known CHECK ((encoding = ANY (ARRAY['identity'::text, 'zstd'::text])))
)
WITH (autovacuum_vacuum_scale_factor='0.02', toast.autovacuum_vacuum_scale_factor='0.02');
ALTER TABLE ONLY public.blobs ALTER COLUMN body SET STORAGE EXTERNAL;

COMMENT ON TABLE public.blobs IS 'Content-addressed payloads (i3 events, skymaps): immutable, stored once';

CREATE TABLE public.command_replies (
    command_id text NOT NULL COLLATE pg_catalog."C",
    fingerprint text NOT NULL,
    code text,
    reason text NOT NULL,
    body bytea NOT NULL,
    recorded_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.02', toast.autovacuum_vacuum_scale_factor='0.02');

CREATE TABLE public.due_work (
    kind text NOT NULL COLLATE pg_catalog."C",
    scan_id text NOT NULL COLLATE pg_catalog."C",
    due_at timestamp with time zone NOT NULL,
    priority integer NOT NULL,
    created_at timestamp with time zone NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    leased_by text,
    leased_until timestamp with time zone,
    note jsonb DEFAULT '{}'::jsonb NOT NULL,
    again_at timestamp with time zone
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='5000');

COMMENT ON TABLE public.due_work IS 'What has to happen at a time: the only timers there are';

COMMENT ON COLUMN public.due_work.leased_by IS 'token of the claim, as <replica>#<uuid>: only who shows it may finish or postpone; null: free';

COMMENT ON COLUMN public.due_work.again_at IS 'put while the row was claimed: when it is due again after this claim; null: not at all';

ALTER TABLE public.event_log ALTER COLUMN "position" ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.event_log_position_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.ewms_additions (
    addition_id bigint NOT NULL,
    scan_id text NOT NULL COLLATE pg_catalog."C",
    workflow_id text NOT NULL,
    cluster_location text NOT NULL,
    n_workers integer NOT NULL,
    asked_at timestamp with time zone NOT NULL,
    held_until timestamp with time zone NOT NULL,
    task_id text,
    before text[] DEFAULT '{}'::text[] NOT NULL,
    attempted_at timestamp with time zone,
    taskforce_uuid text,
    got_n_workers integer,
    is_told boolean DEFAULT false NOT NULL,
    is_automatic boolean DEFAULT false NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500');

COMMENT ON TABLE public.ewms_additions IS 'Requests for more workers; is_told: somebody has been given the answer';

ALTER TABLE public.ewms_additions ALTER COLUMN addition_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.ewms_additions_addition_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.ewms_attempts (
    scan_id text NOT NULL COLLATE pg_catalog."C",
    first_at timestamp with time zone NOT NULL,
    attempted_at timestamp with time zone NOT NULL,
    longer_s double precision DEFAULT 0 NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500');

COMMENT ON TABLE public.ewms_attempts IS 'Requests for a workflow whose outcome is not known: none is repeated before a long wait';

COMMENT ON COLUMN public.ewms_attempts.longer_s IS 'seconds by which the request may still come true later than others';

CREATE TABLE public.ewms_outages (
    name text NOT NULL,
    failures integer NOT NULL,
    openings integer NOT NULL,
    since timestamp with time zone NOT NULL,
    open_until timestamp with time zone,
    recovered_at timestamp with time zone
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='200', fillfactor='10');

COMMENT ON TABLE public.ewms_outages IS 'One row: calls without an answer in a row; open_until: nobody asks before, null: EWMS is asked';

COMMENT ON COLUMN public.ewms_outages.openings IS 'pauses in a row; above 0: EWMS is away since the time in since';

CREATE TABLE public.ewms_taskforces (
    scan_id text NOT NULL COLLATE pg_catalog."C",
    fetched_at timestamp with time zone NOT NULL,
    body bytea NOT NULL
);

COMMENT ON COLUMN public.ewms_taskforces.body IS '{"taskforces": [...]} as EWMS gave them, all fields, zstd of JSON';

CREATE TABLE public.ewms_watch (
    scan_id text NOT NULL COLLATE pg_catalog."C",
    workflow_id text NOT NULL,
    since timestamp with time zone NOT NULL,
    refresh_at timestamp with time zone,
    refreshed_at timestamp with time zone,
    seen text DEFAULT ''::text NOT NULL,
    eyes_until timestamp with time zone
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='5000');

COMMENT ON TABLE public.ewms_watch IS 'Live workflows: when to ask for their workers next, and a digest of what was told last';

COMMENT ON COLUMN public.ewms_watch.refresh_at IS 'when to ask again; null: the workflow and its workers are over';

COMMENT ON COLUMN public.ewms_watch.eyes_until IS 'until then somebody looks at this scan: its workers are asked for more often';

CREATE TABLE public.i3_events (
    i3_event_id text NOT NULL COLLATE pg_catalog."C",
    digest text NOT NULL COLLATE pg_catalog."C"
);

CREATE TABLE public.launch_installation (
    only_row boolean DEFAULT true NOT NULL,
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    place text DEFAULT ''::text NOT NULL,
    place_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    CONSTRAINT launch_installation_only_row_check CHECK (only_row)
);

COMMENT ON COLUMN public.launch_installation.place IS 'namespace/instance of the dispatcher that leads';

COMMENT ON COLUMN public.launch_installation.place_until IS 'until then no other place may lead';

CREATE TABLE public.launch_throttle (
    is_the_row boolean DEFAULT true NOT NULL,
    interval_s double precision,
    max_running integer,
    default_interval_s double precision DEFAULT 300 NOT NULL,
    default_max_running integer,
    next_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    held_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    held_because text DEFAULT ''::text NOT NULL,
    changed_at timestamp with time zone,
    changed_by text DEFAULT ''::text NOT NULL,
    no_room_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    no_room_because text DEFAULT ''::text NOT NULL,
    CONSTRAINT launch_throttle_interval CHECK ((interval_s >= (0)::double precision)),
    CONSTRAINT launch_throttle_max_running CHECK ((max_running >= 0)),
    CONSTRAINT launch_throttle_one_row CHECK (is_the_row)
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='200', fillfactor='10');

COMMENT ON TABLE public.launch_throttle IS 'One row: how fast scans with a priority below 100 are let go';

COMMENT ON COLUMN public.launch_throttle.interval_s IS 'seconds between two launches, set at run time; null: the default';

COMMENT ON COLUMN public.launch_throttle.max_running IS 'scans that may run at once, set at run time; null: the default';

COMMENT ON COLUMN public.launch_throttle.default_max_running IS 'from the dispatcher''s settings, as is default_interval_s; null: no limit';

COMMENT ON COLUMN public.launch_throttle.next_at IS 'when the interval lets the next one go';

COMMENT ON COLUMN public.launch_throttle.held_until IS 'nothing starts before: the cluster did not answer, or asked for patience';

COMMENT ON COLUMN public.launch_throttle.no_room_until IS 'nothing starts before, unless a Job ends: the cluster had no room';

CREATE TABLE public.manifests (
    scan_id text NOT NULL COLLATE pg_catalog."C",
    version integer NOT NULL,
    head_hash bytea NOT NULL,
    body bytea NOT NULL,
    doc jsonb GENERATED ALWAYS AS (public.json_of(body)) STORED,
    rest bytea NOT NULL,
    is_deleted boolean NOT NULL,
    replaced_by text COLLATE pg_catalog."C",
    ewms_workflow_id text,
    ewms_address text,
    event_digest text NOT NULL COLLATE pg_catalog."C",
    priority integer NOT NULL,
    state text NOT NULL,
    launch_state text NOT NULL,
    deactivated text,
    request_scan_id text NOT NULL COLLATE pg_catalog."C",
    has_final_result boolean NOT NULL,
    find_keys jsonb GENERATED ALWAYS AS (public.find_keys_of(body)) STORED,
    problems bytea DEFAULT '\x5b5d'::bytea NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_threshold='2000', fillfactor='80', autovacuum_analyze_scale_factor='0.02', toast.autovacuum_vacuum_scale_factor='0.01', toast.autovacuum_vacuum_threshold='5000');

COMMENT ON COLUMN public.manifests.body IS 'the Manifest (REST contract 5.1) as JSON, exactly as served';

COMMENT ON COLUMN public.manifests.rest IS 'what the scan''s state holds beyond the Manifest, as JSON';

COMMENT ON COLUMN public.manifests.find_keys IS 'what scans are looked up by, for indexes only; the REST gateway derives conditions on it';

COMMENT ON COLUMN public.manifests.problems IS 'why the scan waits or fails: [{"code", "text"}, ...] as JSON, exactly as served';

CREATE TABLE public.relay_cursors (
    relay text NOT NULL,
    xid xid8 NOT NULL,
    "position" bigint NOT NULL,
    moved_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='200', fillfactor='10');

CREATE TABLE public.result_digests (
    digest text NOT NULL COLLATE pg_catalog."C",
    scan_id text NOT NULL COLLATE pg_catalog."C",
    version integer NOT NULL
);

COMMENT ON TABLE public.result_digests IS 'The blob of each scan.result-received event; kept by a trigger of event_log';

CREATE TABLE public.results (
    scan_id text NOT NULL COLLATE pg_catalog."C",
    digest text NOT NULL COLLATE pg_catalog."C",
    size bigint NOT NULL,
    is_final boolean NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_threshold='1000', fillfactor='80');

CREATE TABLE public.scan_requests (
    scan_id text NOT NULL COLLATE pg_catalog."C",
    body bytea NOT NULL,
    rescan_ids text[] NOT NULL COLLATE pg_catalog."C"
);

COMMENT ON COLUMN public.scan_requests.body IS 'the ScanRequest (REST contract 5.4) as JSON, exactly as served';

CREATE TABLE public.schema_migrations (
    name text NOT NULL COLLATE pg_catalog."C",
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    needs text
);

COMMENT ON TABLE public.schema_migrations IS 'Applied migrations; needs: the one that a program must know to work here since then';

CREATE TABLE public.workforces (
    scan_id text NOT NULL COLLATE pg_catalog."C",
    body bytea NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_threshold='1000', fillfactor='70', toast.autovacuum_vacuum_scale_factor='0.01');

COMMENT ON COLUMN public.workforces.body IS 'statuses, n_running and top_errors (REST contract 8.6) as JSON';

ALTER TABLE ONLY public.backlog
    ADD CONSTRAINT backlog_pkey PRIMARY KEY (scan_id);

ALTER TABLE ONLY public.blobs
    ADD CONSTRAINT blobs_pkey PRIMARY KEY (digest);

ALTER TABLE ONLY public.command_replies
    ADD CONSTRAINT command_replies_pkey PRIMARY KEY (command_id);

ALTER TABLE ONLY public.due_work
    ADD CONSTRAINT due_work_pkey PRIMARY KEY (kind, scan_id);

ALTER TABLE ONLY public.event_log
    ADD CONSTRAINT event_log_event_id_key UNIQUE (event_id);

ALTER TABLE ONLY public.event_log
    ADD CONSTRAINT event_log_pkey PRIMARY KEY ("position");

ALTER TABLE ONLY public.event_log
    ADD CONSTRAINT event_log_scan_version_key UNIQUE (scan_id, version);

ALTER TABLE ONLY public.ewms_additions
    ADD CONSTRAINT ewms_additions_pkey PRIMARY KEY (addition_id);

ALTER TABLE ONLY public.ewms_attempts
    ADD CONSTRAINT ewms_attempts_pkey PRIMARY KEY (scan_id);

ALTER TABLE ONLY public.ewms_outages
    ADD CONSTRAINT ewms_outages_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.ewms_taskforces
    ADD CONSTRAINT ewms_taskforces_pkey PRIMARY KEY (scan_id);

ALTER TABLE ONLY public.ewms_watch
    ADD CONSTRAINT ewms_watch_pkey PRIMARY KEY (scan_id);

ALTER TABLE ONLY public.i3_events
    ADD CONSTRAINT i3_events_pkey PRIMARY KEY (i3_event_id);

ALTER TABLE ONLY public.launch_installation
    ADD CONSTRAINT launch_installation_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY public.launch_throttle
    ADD CONSTRAINT launch_throttle_pkey PRIMARY KEY (is_the_row);

ALTER TABLE ONLY public.manifests
    ADD CONSTRAINT manifests_pkey PRIMARY KEY (scan_id);

ALTER TABLE ONLY public.relay_cursors
    ADD CONSTRAINT relay_cursors_pkey PRIMARY KEY (relay);

ALTER TABLE ONLY public.result_digests
    ADD CONSTRAINT result_digests_pkey PRIMARY KEY (digest, scan_id, version);

ALTER TABLE ONLY public.results
    ADD CONSTRAINT results_pkey PRIMARY KEY (scan_id);

ALTER TABLE ONLY public.scan_requests
    ADD CONSTRAINT scan_requests_pkey PRIMARY KEY (scan_id);

ALTER TABLE ONLY public.schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (name);

ALTER TABLE ONLY public.workforces
    ADD CONSTRAINT workforces_pkey PRIMARY KEY (scan_id);

CREATE INDEX command_replies_age ON public.command_replies USING btree (recorded_at);

CREATE INDEX command_replies_without_key ON public.command_replies USING btree (recorded_at) WHERE ((substr(command_id, 15, 1) = '4'::text) AND (length(command_id) = 36));

CREATE INDEX due_work_claims ON public.due_work USING btree (kind, priority DESC, due_at) WHERE (leased_until IS NULL);

CREATE INDEX due_work_free ON public.due_work USING btree (kind, due_at) WHERE (leased_until IS NULL);

CREATE INDEX due_work_held ON public.due_work USING btree (kind, leased_until) WHERE (leased_until IS NOT NULL);

CREATE INDEX due_work_launch_rank ON public.due_work USING btree (public.launch_rank_v1(priority, created_at) DESC) WHERE ((kind = 'launch'::text) AND (priority < 100));

CREATE INDEX due_work_order ON public.due_work USING btree (kind, priority DESC, created_at);

CREATE INDEX event_log_relay_order ON public.event_log USING btree (xid, "position");

CREATE UNIQUE INDEX ewms_additions_open ON public.ewms_additions USING btree (scan_id, cluster_location, n_workers, is_automatic) WHERE (NOT is_told);

CREATE INDEX ewms_additions_scan ON public.ewms_additions USING btree (scan_id);

CREATE INDEX ewms_watch_order ON public.ewms_watch USING btree (refresh_at);

CREATE INDEX i3_events_digest ON public.i3_events USING btree (digest);

CREATE INDEX manifests_find_deleted ON public.manifests USING btree (scan_id) WHERE is_deleted;

CREATE INDEX manifests_find_keys ON public.manifests USING gin (find_keys jsonb_path_ops) WITH (fastupdate=off);

CREATE INDEX manifests_find_live ON public.manifests USING btree (scan_id) WHERE (NOT is_deleted);

CREATE INDEX manifests_find_timestamp ON public.manifests USING btree ((
CASE
    WHEN (jsonb_typeof((find_keys -> 'timestamp'::text)) = 'number'::text) THEN ((find_keys -> 'timestamp'::text))::double precision
    ELSE NULL::double precision
END));

CREATE INDEX manifests_list_priority ON public.manifests USING btree (priority, scan_id) WHERE (NOT is_deleted);

CREATE INDEX manifests_list_state ON public.manifests USING btree (state, scan_id) WHERE (NOT is_deleted);

CREATE INDEX manifests_over_with_workflow ON public.manifests USING btree (scan_id) WHERE ((is_deleted OR has_final_result OR (launch_state = ANY (ARRAY['abandoned'::text, 'failed'::text]))) AND (deactivated IS NULL) AND (ewms_workflow_id <> 'not-yet-requested'::text));

CREATE INDEX manifests_request ON public.manifests USING btree (request_scan_id);

CREATE INDEX manifests_running ON public.manifests USING btree (launch_state, scan_id) WHERE ((NOT is_deleted) AND (NOT has_final_result));

CREATE INDEX manifests_workflow ON public.manifests USING btree (ewms_workflow_id);

CREATE TRIGGER event_log_is_append_only BEFORE UPDATE ON public.event_log FOR EACH ROW WHEN ((NOT public.is_letting_go_of_progress(old.*, new.*))) EXECUTE FUNCTION public.refuse_change_of_the_event_log();

CREATE TRIGGER event_log_is_never_deleted BEFORE DELETE ON public.event_log FOR EACH ROW EXECUTE FUNCTION public.refuse_change_of_the_event_log();

CREATE TRIGGER event_log_is_never_truncated BEFORE TRUNCATE ON public.event_log FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change_of_the_event_log();

CREATE CONSTRAINT TRIGGER event_log_letting_go_is_recorded AFTER UPDATE ON public.event_log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (((SUBSTRING(new.data FROM 1 FOR 1) = '\x00'::bytea) AND (SUBSTRING(old.data FROM 1 FOR 1) <> '\x00'::bytea))) EXECUTE FUNCTION public.refuse_unrecorded_letting_go();

CREATE TRIGGER event_log_notes_result_digests AFTER INSERT ON public.event_log FOR EACH ROW WHEN ((new.type = 'scan.result-received'::text)) EXECUTE FUNCTION public.note_result_digest();

-- The one way past the append-only log: break_glass(reason) opens it for the rest of the transaction, and leaves an event.
--
-- What opens the log is that very event, written by this transaction: there is no switch that could be set without it, and the
-- event itself can be neither changed nor deleted. TRUNCATE stays refused, because it would take the event along.

CREATE OR REPLACE FUNCTION refuse_change_of_the_event_log() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
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

-- Returns the position of the event. The columns are hashed as skydriver_common.model.wire.chain_hash does.
CREATE FUNCTION break_glass(reason text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
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
REVOKE EXECUTE ON FUNCTION break_glass(text) FROM PUBLIC;
COMMENT ON FUNCTION break_glass(text) IS 'Opens the event log for changes until the transaction ends; leaves an event';

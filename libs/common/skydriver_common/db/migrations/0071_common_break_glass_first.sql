-- break_glass comes first in its transaction. Readers go by the ids of transactions; one that has its id already while it waits for
-- others who write the system's history would stand before them, with a later version.

-- Returns the position of the event. The columns are hashed as skydriver_common.model.wire.chain_hash does.
CREATE OR REPLACE FUNCTION break_glass(reason text) RETURNS bigint
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

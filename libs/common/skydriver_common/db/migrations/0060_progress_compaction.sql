-- Old progress reports are let go: the one change of the event log that is not an addition.
--
-- What stays of a payload is its SHA-256 behind a zero byte (no JSON begins so). The hash chain covers the digest and not the
-- bytes, so it can be verified as before. Only let_go_of_progress() may do it, only to reports that a later one has
-- superseded, and only in a transaction that appends the event which says so.

CREATE FUNCTION is_letting_go_of_progress(before event_log, after event_log) RETURNS boolean LANGUAGE plpgsql AS $$
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

DROP TRIGGER event_log_is_append_only ON event_log;
CREATE TRIGGER event_log_is_append_only BEFORE UPDATE ON event_log
    FOR EACH ROW WHEN (NOT is_letting_go_of_progress(OLD, NEW)) EXECUTE FUNCTION refuse_change_of_the_event_log();
CREATE TRIGGER event_log_is_never_deleted BEFORE DELETE ON event_log
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_the_event_log();

CREATE FUNCTION refuse_unrecorded_letting_go() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM event_log WHERE scan_id = NEW.scan_id AND version > NEW.version
                      AND type = 'scan.progress-compacted' AND xid = pg_current_xact_id()) THEN
        RAISE EXCEPTION 'payloads of the event log are let go only together with the event that says so' USING ERRCODE = 'SD002';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER event_log_letting_go_is_recorded AFTER UPDATE ON event_log DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (substring(NEW.data FOR 1) = '\x00'::bytea AND substring(OLD.data FOR 1) <> '\x00'::bytea)
    EXECUTE FUNCTION refuse_unrecorded_letting_go();

-- Lets go of at most so many of a scan's progress reports that are older than the report `keep_from`, oldest first.
-- Returns how many, and how many bytes they were.
CREATE FUNCTION let_go_of_progress(of_scan text, keep_from integer, most integer, OUT payloads bigint, OUT bytes bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
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

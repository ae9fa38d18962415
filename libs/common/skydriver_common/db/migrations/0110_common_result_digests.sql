-- Which results refer to which blob, as a small table: an index on what event_log.data says makes every change of a report's data
-- rewrite the row's entries in all indexes of the log.

CREATE TABLE result_digests (
    digest  text COLLATE "C" NOT NULL,
    scan_id text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    CONSTRAINT result_digests_pkey PRIMARY KEY (digest, scan_id, version)
);
COMMENT ON TABLE result_digests IS 'The blob of each scan.result-received event; kept by a trigger of event_log';

-- The digest is the first member of the event's canonical JSON. Not parsed as jsonb: a producer''s name may hold what jsonb refuses.
CREATE FUNCTION result_digest_of(data bytea) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN substring(encode(substring(data FOR 200), 'escape') FROM '"digest":"(sha256:[0-9a-f]{64})"');

CREATE FUNCTION note_result_digest() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO result_digests (digest, scan_id, version) VALUES (coalesce(result_digest_of(NEW.data), ''), NEW.scan_id, NEW.version)
        ON CONFLICT ON CONSTRAINT result_digests_pkey DO NOTHING;
    RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION note_result_digest() FROM PUBLIC;

CREATE TRIGGER event_log_notes_result_digests AFTER INSERT ON event_log
    FOR EACH ROW WHEN (NEW.type = 'scan.result-received') EXECUTE FUNCTION note_result_digest();

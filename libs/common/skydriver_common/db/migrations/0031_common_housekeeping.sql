-- What may go after a time: recorded replies, and blobs that no event refers to. Services may not delete these rows themselves;
-- the functions check what may go, and do a bounded piece at a time.

CREATE INDEX i3_events_digest ON i3_events (digest);
CREATE INDEX event_log_result_digest ON event_log ((json_of(data) ->> 'digest')) WHERE type = 'scan.result-received';

-- Forgets at most so many replies that were recorded before a time, but none of the last day. Returns how many.
CREATE FUNCTION forget_replies(before timestamptz, most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
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

-- Looks at the next `most` blobs after a digest, and drops those that were put before a time, but not within the last day, and
-- that no event refers to. Putting a blob again makes it young (put_blobs), so one that a decision is about to refer to stays.
CREATE FUNCTION drop_orphan_blobs(before timestamptz, after_digest text, most integer, OUT gone bigint, OUT bytes bigint, OUT next_digest text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
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
           AND NOT EXISTS (SELECT FROM event_log e WHERE e.type = 'scan.result-received' AND json_of(e.data) ->> 'digest' = b.digest)
        RETURNING octet_length(b.body) AS size)
    SELECT count(*), coalesce(sum(size), 0) INTO gone, bytes FROM dropped;
END
$$;

REVOKE EXECUTE ON FUNCTION forget_replies(timestamptz, integer), drop_orphan_blobs(timestamptz, text, integer) FROM PUBLIC;

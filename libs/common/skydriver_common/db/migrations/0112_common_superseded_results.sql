-- Superseded partial skymaps can be dropped: their events keep the digests, and an event of the scan says that the contents are gone.
-- Replies to commands without an Idempotency-Key are forgotten after minutes: nobody can ask for them again.

-- As in 0031, by result_digests instead of an index on the log's data.
CREATE OR REPLACE FUNCTION drop_orphan_blobs(before timestamptz, after_digest text, most integer, OUT gone bigint, OUT bytes bigint, OUT next_digest text)
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
           AND NOT EXISTS (SELECT FROM result_digests r WHERE r.digest = b.digest)
        RETURNING octet_length(b.body) AS size)
    SELECT count(*), coalesce(sum(size), 0) INTO gone, bytes FROM dropped;
END
$$;

-- Drops at most so many contents of a scan's partial results that are older than the result keep_from, but never of its first
-- result, nor one that anything else refers to or that was put again within the last day. Returns how many, and their bytes.
CREATE FUNCTION drop_superseded_results(of_scan text, keep_from integer, most integer, OUT results bigint, OUT bytes bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
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

-- Forgets at most so many replies of commands that the gateway named by itself (UUID version 4; a key makes version 5), recorded
-- more than 15 minutes ago: their senders have stopped waiting, and a later delivery is past its deadline. Returns how many.
CREATE FUNCTION forget_replies_without_key(most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
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

REVOKE EXECUTE ON FUNCTION drop_superseded_results(text, integer, integer), forget_replies_without_key(integer) FROM PUBLIC;

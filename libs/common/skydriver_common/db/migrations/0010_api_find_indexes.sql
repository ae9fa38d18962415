-- Indexes for POST /scans/find.
--
-- `find_keys` repeats the few parts of a Manifest that people look scans up by. It is a column of its own, and not an index on
-- `doc`, because `doc` changes with each progress report (`last_updated`): every report would write to every index on it. This
-- column changes a handful of times in a scan's life, so reports stay heap-only updates.

-- Immutable in fact: it only picks values out of the body. In PL/pgSQL because its plan outlives the statement: +60 us for an
-- update of a manifest, where the same in SQL costs +110 us.
CREATE FUNCTION find_keys_of(body bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
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

ALTER TABLE manifests ADD COLUMN find_keys jsonb GENERATED ALWAYS AS (find_keys_of(body)) STORED;
COMMENT ON COLUMN manifests.find_keys IS 'what scans are looked up by, for indexes only; the REST gateway derives conditions on it';

-- No list of pending entries: a search would have to read it through, and there are few entries to add.
CREATE INDEX manifests_find_keys ON manifests USING gin (find_keys jsonb_path_ops) WITH (fastupdate = off);
CREATE INDEX manifests_find_timestamp ON manifests (
    (CASE WHEN jsonb_typeof(find_keys -> 'timestamp') = 'number' THEN (find_keys -> 'timestamp')::float8 END)
);
CREATE INDEX manifests_find_live ON manifests (scan_id COLLATE "C") WHERE NOT is_deleted;
CREATE INDEX manifests_find_deleted ON manifests (scan_id COLLATE "C") WHERE is_deleted;

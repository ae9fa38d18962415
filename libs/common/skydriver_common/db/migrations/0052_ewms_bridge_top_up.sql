-- Workers that the bridge adds by itself: their requests never answer a user's, whatever their shape.

ALTER TABLE ewms_additions ADD COLUMN is_automatic boolean NOT NULL DEFAULT false;
DROP INDEX ewms_additions_open;
CREATE UNIQUE INDEX ewms_additions_open ON ewms_additions (scan_id, cluster_location, n_workers, is_automatic) WHERE NOT is_told;

ALTER TABLE ewms_watch ADD COLUMN eyes_until timestamptz;
COMMENT ON COLUMN ewms_watch.eyes_until IS 'until then somebody looks at this scan: its workers are asked for more often';

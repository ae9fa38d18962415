-- Why a scan waits or fails, ready to be sent; and how old the knowledge of its workers is, also when they have gone.

ALTER TABLE manifests ADD COLUMN problems bytea NOT NULL DEFAULT '[]'::bytea;
COMMENT ON COLUMN manifests.problems IS 'why the scan waits or fails: [{"code", "text"}, ...] as JSON, exactly as served';

ALTER TABLE ewms_watch ALTER COLUMN refresh_at DROP NOT NULL;
COMMENT ON COLUMN ewms_watch.refresh_at IS 'when to ask again; null: the workflow and its workers are over';

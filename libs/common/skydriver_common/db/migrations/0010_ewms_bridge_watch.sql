-- The bridge's own memory of what it has asked EWMS. No views: EWMS gives no idempotency key, so what was asked, and when,
-- must be on disk before it is asked.

CREATE TABLE ewms_attempts (
    scan_id      text COLLATE "C" CONSTRAINT ewms_attempts_pkey PRIMARY KEY,
    first_at     timestamptz NOT NULL,
    attempted_at timestamptz NOT NULL
);
COMMENT ON TABLE ewms_attempts IS 'Requests for a workflow whose outcome is not known: none is repeated before a long wait';

CREATE TABLE ewms_watch (
    scan_id      text COLLATE "C" CONSTRAINT ewms_watch_pkey PRIMARY KEY,
    workflow_id  text NOT NULL,
    since        timestamptz NOT NULL,
    refresh_at   timestamptz NOT NULL,
    refreshed_at timestamptz,
    seen         text NOT NULL DEFAULT ''
);
COMMENT ON TABLE ewms_watch IS 'Live workflows: when to ask for their workers next, and a digest of what was told last';
CREATE INDEX ewms_watch_order ON ewms_watch (refresh_at);

CREATE TABLE ewms_additions (
    addition_id      bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT ewms_additions_pkey PRIMARY KEY,
    scan_id          text COLLATE "C" NOT NULL,
    workflow_id      text NOT NULL,
    cluster_location text NOT NULL,
    n_workers        integer NOT NULL,
    asked_at         timestamptz NOT NULL,
    held_until       timestamptz NOT NULL,
    task_id          text,
    before           text[] NOT NULL DEFAULT '{}',
    attempted_at     timestamptz,
    taskforce_uuid   text,
    got_n_workers    integer,
    is_told          boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE ewms_additions IS 'Requests for more workers; is_told: somebody has been given the answer';
CREATE UNIQUE INDEX ewms_additions_open ON ewms_additions (scan_id, cluster_location, n_workers) WHERE NOT is_told;
CREATE INDEX ewms_additions_scan ON ewms_additions (scan_id);

CREATE TABLE ewms_taskforces (
    scan_id    text COLLATE "C" CONSTRAINT ewms_taskforces_pkey PRIMARY KEY,
    fetched_at timestamptz NOT NULL,
    body       bytea NOT NULL
);
COMMENT ON COLUMN ewms_taskforces.body IS '{"taskforces": [...]} as EWMS gave them, all fields, zstd of JSON';

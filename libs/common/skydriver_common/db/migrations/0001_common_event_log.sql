-- The event log, the views folded from it, and the tables that make handling commands and events idempotent.

CREATE TABLE event_log (
    position       bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT event_log_pkey PRIMARY KEY,
    xid            xid8 NOT NULL DEFAULT pg_current_xact_id(),
    event_id       uuid NOT NULL CONSTRAINT event_log_event_id_key UNIQUE,
    scan_id        text COLLATE "C" NOT NULL,
    version        integer NOT NULL CONSTRAINT event_log_version_positive CHECK (version > 0),
    type           text COLLATE "C" NOT NULL,
    schema_version smallint NOT NULL,
    recorded_at    timestamptz NOT NULL,
    actor          text NOT NULL,
    command_id     text NOT NULL,
    correlation_id text NOT NULL,
    data           bytea NOT NULL,
    prev_hash      bytea NOT NULL,
    hash           bytea NOT NULL,
    CONSTRAINT event_log_scan_version_key UNIQUE (scan_id, version)
);
COMMENT ON TABLE event_log IS 'The truth: append-only, one row per fact about one scan';
CREATE INDEX event_log_relay_order ON event_log (xid, position);

CREATE FUNCTION refuse_change_of_the_event_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the event log is append-only' USING ERRCODE = 'SD001';
END
$$;
CREATE TRIGGER event_log_is_append_only BEFORE UPDATE OR DELETE ON event_log
    FOR EACH ROW EXECUTE FUNCTION refuse_change_of_the_event_log();
CREATE TRIGGER event_log_is_never_truncated BEFORE TRUNCATE ON event_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_the_event_log();

CREATE TABLE blobs (
    digest   text COLLATE "C" CONSTRAINT blobs_pkey PRIMARY KEY,
    encoding text NOT NULL CONSTRAINT blobs_encoding_known CHECK (encoding IN ('identity', 'zstd')),
    size     bigint NOT NULL,
    body     bytea NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE blobs ALTER COLUMN body SET STORAGE EXTERNAL;  -- compressed already
COMMENT ON TABLE blobs IS 'Content-addressed payloads (i3 events, skymaps): immutable, stored once';

-- Views: written only by skydriver_common.log.views, in the transaction of the events they are folded from.

-- Immutable in fact: the encoding is named, so no setting of the session can change the outcome.
CREATE FUNCTION json_of(body bytea) RETURNS jsonb LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN convert_from(body, 'UTF8')::jsonb;

CREATE TABLE manifests (
    scan_id          text COLLATE "C" CONSTRAINT manifests_pkey PRIMARY KEY,
    version          integer NOT NULL,
    head_hash        bytea NOT NULL,
    body             bytea NOT NULL,
    doc              jsonb GENERATED ALWAYS AS (json_of(body)) STORED,
    rest             bytea NOT NULL,
    is_deleted       boolean NOT NULL,
    replaced_by      text COLLATE "C",
    ewms_workflow_id text,
    ewms_address     text,
    event_digest     text COLLATE "C" NOT NULL,
    priority         integer NOT NULL,
    state            text NOT NULL,
    launch_state     text NOT NULL,
    deactivated      text,
    request_scan_id  text COLLATE "C" NOT NULL,
    has_final_result boolean NOT NULL
);
COMMENT ON COLUMN manifests.body IS 'the Manifest (REST contract 5.1) as JSON, exactly as served';
COMMENT ON COLUMN manifests.rest IS 'what the scan''s state holds beyond the Manifest, as JSON';
CREATE INDEX manifests_request ON manifests (request_scan_id);
CREATE INDEX manifests_workflow ON manifests (ewms_workflow_id);
CREATE INDEX manifests_running ON manifests (launch_state, scan_id) WHERE NOT is_deleted AND NOT has_final_result;

CREATE TABLE scan_requests (
    scan_id    text COLLATE "C" CONSTRAINT scan_requests_pkey PRIMARY KEY,
    body       bytea NOT NULL,
    rescan_ids text[] COLLATE "C" NOT NULL
);
COMMENT ON COLUMN scan_requests.body IS 'the ScanRequest (REST contract 5.4) as JSON, exactly as served';

CREATE TABLE i3_events (
    i3_event_id text COLLATE "C" CONSTRAINT i3_events_pkey PRIMARY KEY,
    digest      text COLLATE "C" NOT NULL
);

CREATE TABLE results (
    scan_id  text COLLATE "C" CONSTRAINT results_pkey PRIMARY KEY,
    digest   text COLLATE "C" NOT NULL,
    size     bigint NOT NULL,
    is_final boolean NOT NULL
);

CREATE TABLE backlog (
    scan_id    text COLLATE "C" CONSTRAINT backlog_pkey PRIMARY KEY,
    priority   integer NOT NULL,
    queued_at  double precision NOT NULL,
    taken_at   double precision NOT NULL,
    attempts   integer NOT NULL
);
COMMENT ON TABLE backlog IS 'Scans that wait for their launch; times are Unix seconds, taken_at 0 = never';

CREATE TABLE workforces (
    scan_id text COLLATE "C" CONSTRAINT workforces_pkey PRIMARY KEY,
    body    bytea NOT NULL
);
COMMENT ON COLUMN workforces.body IS 'statuses, n_running and top_errors (REST contract 8.6) as JSON';

-- Not views: the machinery around the log.

CREATE TABLE command_replies (
    command_id  text COLLATE "C" CONSTRAINT command_replies_pkey PRIMARY KEY,
    fingerprint text NOT NULL,
    code        text,
    reason      text NOT NULL,
    body        bytea NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX command_replies_age ON command_replies (recorded_at);

CREATE TABLE consumed_events (
    consumer    text COLLATE "C" NOT NULL,
    event_id    uuid NOT NULL,
    consumed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT consumed_events_pkey PRIMARY KEY (consumer, event_id)
);

CREATE TABLE relay_cursors (
    relay    text CONSTRAINT relay_cursors_pkey PRIMARY KEY,
    xid      xid8 NOT NULL,
    position bigint NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE due_work (
    kind         text COLLATE "C" NOT NULL,
    scan_id      text COLLATE "C" NOT NULL,
    due_at       timestamptz NOT NULL,
    priority     integer NOT NULL,
    created_at   timestamptz NOT NULL,
    tries        integer NOT NULL DEFAULT 0,
    leased_by    text,
    leased_until timestamptz,
    note         jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT due_work_pkey PRIMARY KEY (kind, scan_id)
);
COMMENT ON TABLE due_work IS 'What has to happen at a time: the only timers there are';
CREATE INDEX due_work_order ON due_work (kind, priority DESC, created_at);
CREATE INDEX due_work_due ON due_work (kind, due_at);

CREATE TABLE throttles (
    name    text CONSTRAINT throttles_pkey PRIMARY KEY,
    next_at timestamptz NOT NULL
);
COMMENT ON TABLE throttles IS 'When the next one may pass, over all replicas';

-- Whether EWMS answers, as all replicas of the bridge know it together.

CREATE TABLE ewms_outages (
    name         text CONSTRAINT ewms_outages_pkey PRIMARY KEY,
    failures     integer NOT NULL,
    openings     integer NOT NULL,
    since        timestamptz NOT NULL,
    open_until   timestamptz,
    recovered_at timestamptz
);
COMMENT ON TABLE ewms_outages IS 'One row: calls without an answer in a row; open_until: nobody asks before, null: EWMS is asked';
COMMENT ON COLUMN ewms_outages.openings IS 'pauses in a row; above 0: EWMS is away since the time in since';

-- Which installation this database belongs to, and where its scans are watched: a dispatcher with a wrong namespace or instance name, or
-- with another database, does not take over what a living one watches.
CREATE TABLE launch_installation (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    place       text NOT NULL DEFAULT '',
    place_until timestamptz NOT NULL DEFAULT '-infinity'
);
COMMENT ON COLUMN launch_installation.place IS 'namespace/instance of the dispatcher that leads';
COMMENT ON COLUMN launch_installation.place_until IS 'until then no other place may lead';
INSERT INTO launch_installation DEFAULT VALUES;

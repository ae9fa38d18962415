-- The users of the services, each in its role. Run once by the owner of the database (the user of `migrate`), before or after
-- the first migration: a role that is not there yet is made here, and `skydriver migrate --roles` grants it what it needs.
--
--   psql "$MIGRATE_URL" -v api=… -v dispatcher=… -v ewms_bridge=… -v progress=… -f deploy/postgres/users.sql
--
-- Each variable is that user's password. An existing user is an error, and then nothing is changed.

\set ON_ERROR_STOP on
BEGIN;
SELECT format('CREATE ROLE %I NOLOGIN', name)
  FROM unnest(ARRAY['skydriver_api', 'skydriver_dispatcher', 'skydriver_ewms_bridge', 'skydriver_progress']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
CREATE USER skydriver_api_1 PASSWORD :'api' IN ROLE skydriver_api;
CREATE USER skydriver_dispatcher_1 PASSWORD :'dispatcher' IN ROLE skydriver_dispatcher;
CREATE USER skydriver_ewms_bridge_1 PASSWORD :'ewms_bridge' IN ROLE skydriver_ewms_bridge;
CREATE USER skydriver_progress_1 PASSWORD :'progress' IN ROLE skydriver_progress;
COMMIT;

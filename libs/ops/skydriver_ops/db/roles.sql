-- Database roles, one per service, each with what it needs and nothing else. Run after every migration, as the owner of the
-- tables who may also create roles: `skydriver migrate --roles`. Safe to repeat.
--
--   skydriver_api           reads views and log, stores payloads
--   skydriver_dispatcher    } append events, write the views folded from them, their own tables
--   skydriver_ewms_bridge   }
--   skydriver_progress      } and lets go of what is old, by functions that check what may go
--   skydriver_operator      reads everything, appends what operators do (dead letters)
--   skydriver_break_glass   for an emergency: may change the log after break_glass('why'), which leaves an event
--
-- They can't log in. Give a service's user its role: CREATE USER progress_1 PASSWORD '…' IN ROLE skydriver_progress.
-- Rebuilding and importing make and exchange tables: those need the owner.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['skydriver_writer', 'skydriver_api', 'skydriver_dispatcher', 'skydriver_ewms_bridge',
                                'skydriver_progress', 'skydriver_operator', 'skydriver_break_glass'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- another one was at it, too: roles belong to the whole server
            END;
        END IF;
    END LOOP;
    FOREACH name IN ARRAY ARRAY['skydriver_dispatcher', 'skydriver_ewms_bridge', 'skydriver_progress'] LOOP
        IF NOT pg_has_role(name, 'skydriver_writer', 'MEMBER') THEN
            EXECUTE format('GRANT skydriver_writer TO %I', name);
        END IF;
    END LOOP;
END
$$;

-- Nothing is left over from an earlier release, nothing comes by itself.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, skydriver_writer, skydriver_api, skydriver_dispatcher, skydriver_ewms_bridge,
    skydriver_progress, skydriver_operator, skydriver_break_glass;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION break_glass(text), let_go_of_progress(text, integer, integer), forget_replies(timestamptz, integer),
    drop_orphan_blobs(timestamptz, text, integer), drop_superseded_results(text, integer, integer),
    forget_replies_without_key(integer) FROM PUBLIC;

-- What every deciding service does: append, fold into views, answer, remember, keep time, relay.
GRANT SELECT, INSERT ON event_log, command_replies, blobs TO skydriver_writer;
GRANT SELECT, INSERT, UPDATE ON manifests, scan_requests, i3_events, results, backlog, workforces, relay_cursors TO skydriver_writer;
GRANT DELETE ON backlog, workforces TO skydriver_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON due_work TO skydriver_writer;
GRANT SELECT ON schema_migrations, _yoyo_migration TO skydriver_writer, skydriver_api;

GRANT SELECT ON event_log, manifests, scan_requests, i3_events, results, backlog, workforces, blobs, command_replies TO skydriver_api;
GRANT INSERT ON blobs TO skydriver_api;
GRANT UPDATE (stored_at) ON blobs TO skydriver_writer, skydriver_api;

-- Tables of one service's own, by the beginning of their names.
DO $$
DECLARE
    own record;
BEGIN
    FOR own IN
        SELECT c.relname AS table, r.role FROM pg_class c
          JOIN (VALUES ('ewms\_%', 'skydriver_ewms_bridge'), ('launch\_%', 'skydriver_dispatcher'),
                       ('progress\_%', 'skydriver_progress')) AS r (pattern, role) ON c.relname LIKE r.pattern
         WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO %I', own.table, own.role);
        EXECUTE format('GRANT SELECT ON %I TO skydriver_api', own.table);
    END LOOP;
END
$$;

GRANT EXECUTE ON FUNCTION let_go_of_progress(text, integer, integer), forget_replies(timestamptz, integer),
    drop_orphan_blobs(timestamptz, text, integer), drop_superseded_results(text, integer, integer),
    forget_replies_without_key(integer) TO skydriver_progress;

GRANT SELECT ON ALL TABLES IN SCHEMA public TO skydriver_operator;
GRANT INSERT ON event_log, command_replies TO skydriver_operator;
GRANT UPDATE ON launch_throttle TO skydriver_operator;

GRANT SELECT, UPDATE, DELETE ON event_log TO skydriver_break_glass;
GRANT EXECUTE ON FUNCTION break_glass(text) TO skydriver_break_glass;

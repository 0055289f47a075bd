-- The role of the daemon, and one for analysts: as little as each needs. Run it after `voiceclone-events migrate up`,
-- again after each later migration, and after `migrate down`, which takes the rights away with the tables. Run it as the
-- owner of the tables, or as a superuser:
--
--     psql "$OWNER_DATABASE_URL" --set ON_ERROR_STOP=1 --file roles.sql
--
-- An owner without CREATEROLE cannot create the two roles: let somebody who can do so once, and run this file then:
--
--     CREATE ROLE voiceclone_events; CREATE ROLE voiceclone_reader;
--
-- Then let somebody log in. No password stands here, nor should it in a shell's history: \password asks for one.
--
--     ALTER ROLE voiceclone_events LOGIN;
--     \password voiceclone_events
--
-- Migrations are the owner's business: `voiceclone-events migrate up` with the owner's DATABASE_URL, and `run` without
-- `--migrate` with the daemon's.

BEGIN;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'voiceclone_events') THEN
        CREATE ROLE voiceclone_events NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'voiceclone_reader') THEN
        CREATE ROLE voiceclone_reader NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION 'this role may not create roles: let one with CREATEROLE say once CREATE ROLE voiceclone_events; CREATE ROLE voiceclone_reader; and run this file again';
END
$$;

-- What an earlier version of this file, or another hand, has granted and is not needed.
-- Tables of other owners in these schemas are their business.
DO $$
DECLARE
    its regclass;
BEGIN
    FOR its IN
        SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('public', 'ingest', 'analytics') AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
          AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        EXECUTE format('REVOKE ALL ON TABLE %s FROM voiceclone_events, voiceclone_reader', its);
    END LOOP;
END
$$;
REVOKE ALL ON SCHEMA public, ingest, analytics FROM voiceclone_events, voiceclone_reader;

-- The daemon: rows of the seven tables are made and changed, never deleted; what was published leaves the outbox,
-- and dead letters that are resolved and published are deleted where that is asked for.
GRANT USAGE ON SCHEMA public, ingest TO voiceclone_events;
GRANT SELECT ON public.__diesel_schema_migrations TO voiceclone_events;
GRANT SELECT, INSERT, UPDATE ON
    public.caller_voice_mapping, public.voice_clone_cache, public.call_log, public.voice_clone_log,
    public.clone_ready_events, public.clone_failed_events, public.clone_transfer_events,
    ingest.consumer_offsets, ingest.voices, ingest.calls, ingest.mappings
    TO voiceclone_events;
GRANT SELECT, INSERT, UPDATE, DELETE ON ingest.outbox, ingest.dead_letters, ingest.instances, ingest.pauses
    TO voiceclone_events;
GRANT SELECT, INSERT ON ingest.skips TO voiceclone_events;

-- Analysts: the seven tables and the views over them, which `report` reads. Not ingest: dead letters hold personal data
-- as it came.
-- GRANT voiceclone_reader TO somebody;
GRANT USAGE ON SCHEMA public, analytics TO voiceclone_reader;
GRANT SELECT ON
    analytics.clones, analytics.calls, analytics.handovers, analytics.voices, analytics.hourly
    TO voiceclone_reader;
GRANT SELECT ON
    public.caller_voice_mapping, public.voice_clone_cache, public.call_log, public.voice_clone_log,
    public.clone_ready_events, public.clone_failed_events, public.clone_transfer_events
    TO voiceclone_reader;

-- The daemon tells an outage from a refused row by PostgreSQL's words, and asks for English ones.
DO $$
BEGIN
    GRANT SET ON PARAMETER lc_messages TO voiceclone_events;
EXCEPTION WHEN insufficient_privilege THEN
    IF current_setting('lc_messages') !~* '^($|(c|posix|en_[a-z]+)($|[.@]))' THEN
        RAISE WARNING 'a superuser must still say: GRANT SET ON PARAMETER lc_messages TO voiceclone_events';
    END IF;
END
$$;

COMMIT;

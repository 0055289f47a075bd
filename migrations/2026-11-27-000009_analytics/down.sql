-- What somebody else has put into the schema stays, and the schema with it.
DROP VIEW IF EXISTS analytics.hourly, analytics.voices, analytics.handovers, analytics.calls, analytics.clones;
DO $$
BEGIN
    DROP SCHEMA IF EXISTS analytics;
EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
    RAISE NOTICE 'schema analytics stays, as somebody else uses it, too';
END
$$;

-- Of tables of another tool's making nobody knows whose the comments are: there they stay.
DO $$
DECLARE
    made TEXT;
    its TEXT;
BEGIN
    FOREACH made IN ARRAY ARRAY['caller_voice_mapping', 'voice_clone_cache', 'call_log', 'voice_clone_log',
                                'clone_ready_events', 'clone_failed_events', 'clone_transfer_events']
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM ingest.adopted_tables WHERE table_name = made);
        EXECUTE format('COMMENT ON TABLE public.%I IS NULL', made);
        FOR its IN SELECT attname FROM pg_catalog.pg_attribute
                   WHERE attrelid = format('public.%I', made)::regclass AND attnum > 0 AND NOT attisdropped
        LOOP
            EXECUTE format('COMMENT ON COLUMN public.%I.%I IS NULL', made, its);
        END LOOP;
    END LOOP;
END
$$;

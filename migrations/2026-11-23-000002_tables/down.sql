-- Tables of another tool's making stay, with their rows.
DO $$
DECLARE
    made TEXT;
BEGIN
    FOREACH made IN ARRAY ARRAY['caller_voice_mapping', 'voice_clone_cache', 'call_log', 'voice_clone_log',
                                'clone_ready_events', 'clone_failed_events', 'clone_transfer_events']
    LOOP
        IF NOT EXISTS (SELECT FROM ingest.adopted_tables WHERE table_name = made) THEN
            EXECUTE format('DROP TABLE public.%I', made);
        END IF;
    END LOOP;
END
$$;
-- What the bookkeeping says of these rows goes with them: applied again, the topics fill the tables anew.
DELETE FROM ingest.voices;
DELETE FROM ingest.calls;
DELETE FROM ingest.mappings;
DELETE FROM ingest.consumer_offsets;

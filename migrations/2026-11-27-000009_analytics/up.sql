-- Views for analysts (contract, section 1). Times are UTC, without time zone, as in the tables. Each view keeps a time
-- column as it stands in an indexed column of a table, so that a filter on it reads only the rows of that time. The
-- views read with the rights of their owner: who reads them needs no right on the tables.
CREATE SCHEMA IF NOT EXISTS analytics;

CREATE VIEW analytics.clones AS
SELECT id, ready_at AS event_at, greeting_call_id, caller_id, 'success'::text AS outcome, cloned_voice_id,
       clone_duration_ms AS latency_ms, NULL::text AS error_message, NULL::text AS error_kind
FROM public.clone_ready_events
UNION ALL
SELECT id, failed_at, greeting_call_id, caller_id, 'failed'::text, NULL::varchar, NULL::integer, error_message,
       regexp_replace(error_message, '[0-9]+', '#', 'g')
FROM public.clone_failed_events;

CREATE VIEW analytics.calls AS
SELECT c.call_id,
       CASE WHEN EXISTS (SELECT FROM public.clone_transfer_events t WHERE t.agent_call_id = c.call_id) THEN 'agent'
            WHEN EXISTS (SELECT FROM public.clone_transfer_events t WHERE t.greeting_call_id = c.call_id)
              OR EXISTS (SELECT FROM public.clone_ready_events r WHERE r.greeting_call_id = c.call_id)
              OR EXISTS (SELECT FROM public.clone_failed_events f WHERE f.greeting_call_id = c.call_id) THEN 'greeting'
       END AS kind,
       c.caller_id, c.cloned_voice_id, c.status, c.call_started_at, c.call_ended_at, c.duration_seconds, c.created_at
FROM public.call_log c;

CREATE VIEW analytics.handovers AS
SELECT t.id, t.transferred_at, t.greeting_call_id, t.cloned_voice_id, t.agent_call_id,
       g.call_started_at AS greeting_started_at,
       (SELECT min(r.ready_at) FROM public.clone_ready_events r
        WHERE r.greeting_call_id = t.greeting_call_id AND r.cloned_voice_id = t.cloned_voice_id) AS cloned_at,
       NOT EXISTS (SELECT FROM public.clone_ready_events r
                   WHERE r.greeting_call_id = t.greeting_call_id AND r.cloned_voice_id = t.cloned_voice_id) AS from_cache,
       -- PostgreSQL does not subtract infinite times, which rows of another tool may hold
       CASE WHEN isfinite(t.transferred_at) AND isfinite(g.call_started_at)
            THEN extract(epoch FROM t.transferred_at - g.call_started_at) END AS seconds,
       a.status AS outcome, a.duration_seconds AS agent_seconds
FROM public.clone_transfer_events t
LEFT JOIN public.call_log g ON g.call_id = t.greeting_call_id
LEFT JOIN public.call_log a ON a.call_id = t.agent_call_id;

-- reuse_count is 1 for a voice that was never used and for one that was used once: the daemon's count tells them apart.
CREATE VIEW analytics.voices AS
SELECT v.id, v.cloned_voice_id, v.clone_created_at, COALESCE(u.transfers, 0) AS uses, v.last_used_at,
       v.deleted_at IS NULL AND v.ttl_expires_at > now() AT TIME ZONE 'utc' AS live, v.ttl_expires_at, v.deleted_at
FROM public.voice_clone_cache v
LEFT JOIN ingest.voices u ON u.cloned_voice_id = v.cloned_voice_id;

-- The hours are found in the indexes one after the other, and each hour reads its own rows: a filter on the hour then
-- reads only these. A series from the first hour to the last would not do, as one event of the year 9999 is enough to
-- make it endless.
CREATE VIEW analytics.hourly AS
WITH RECURSIVE hours (hour) AS (
    SELECT date_trunc('hour', LEAST(
        (SELECT min(ready_at) FROM public.clone_ready_events WHERE ready_at > '-infinity'),
        (SELECT min(failed_at) FROM public.clone_failed_events WHERE failed_at > '-infinity'),
        (SELECT min(transferred_at) FROM public.clone_transfer_events WHERE transferred_at > '-infinity'),
        (SELECT min(created_at) FROM public.call_log WHERE created_at > '-infinity')))
    UNION ALL
    SELECT date_trunc('hour', LEAST(
        (SELECT min(ready_at) FROM public.clone_ready_events WHERE ready_at >= h.hour + INTERVAL '1 hour'),
        (SELECT min(failed_at) FROM public.clone_failed_events WHERE failed_at >= h.hour + INTERVAL '1 hour'),
        (SELECT min(transferred_at) FROM public.clone_transfer_events WHERE transferred_at >= h.hour + INTERVAL '1 hour'),
        (SELECT min(created_at) FROM public.call_log WHERE created_at >= h.hour + INTERVAL '1 hour')))
    FROM hours h
    WHERE isfinite(h.hour)
)
SELECT h.hour, c.clones, c.clones_failed, c.success_percent, c.p50_ms, c.p95_ms, t.handovers, t.from_cache,
       l.calls, l.calls_failed, l.call_seconds
FROM hours h
CROSS JOIN LATERAL (
    SELECT count(*) AS clones, count(*) FILTER (WHERE outcome = 'failed') AS clones_failed,
           round(100.0 * count(*) FILTER (WHERE outcome = 'success') / NULLIF(count(*), 0), 1) AS success_percent,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS p50_ms,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) AS p95_ms
    FROM analytics.clones WHERE event_at >= h.hour AND event_at < h.hour + INTERVAL '1 hour'
) c
CROSS JOIN LATERAL (
    SELECT count(*) AS handovers, count(*) FILTER (WHERE from_cache) AS from_cache
    FROM analytics.handovers WHERE transferred_at >= h.hour AND transferred_at < h.hour + INTERVAL '1 hour'
) t
CROSS JOIN LATERAL (
    SELECT count(*) AS calls, count(*) FILTER (WHERE status = 'failed') AS calls_failed,
           sum(duration_seconds) AS call_seconds
    FROM public.call_log WHERE created_at >= h.hour AND created_at < h.hour + INTERVAL '1 hour'
) l
WHERE isfinite(h.hour);

COMMENT ON SCHEMA analytics IS 'Views for analysts; times are UTC';

COMMENT ON VIEW analytics.clones IS 'Each try to clone a voice, successful or not';
COMMENT ON COLUMN analytics.clones.id IS 'id of the row of clone_ready_events or clone_failed_events';
COMMENT ON COLUMN analytics.clones.event_at IS 'When the voice was ready or the try failed, UTC: filter by this column';
COMMENT ON COLUMN analytics.clones.greeting_call_id IS 'The greeting call during which the voice was cloned';
COMMENT ON COLUMN analytics.clones.caller_id IS 'The caller''s phone number (personal data)';
COMMENT ON COLUMN analytics.clones.outcome IS 'success or failed';
COMMENT ON COLUMN analytics.clones.cloned_voice_id IS 'The voice; null where the try failed';
COMMENT ON COLUMN analytics.clones.latency_ms IS
    'Milliseconds that the cloning took; null for a failure, and where the event did not say';
COMMENT ON COLUMN analytics.clones.error_message IS 'Why the try failed; null where it did not';
COMMENT ON COLUMN analytics.clones.error_kind IS 'error_message with # for each number, to group by';

COMMENT ON VIEW analytics.calls IS 'Each call, without transcript and metadata';
COMMENT ON COLUMN analytics.calls.call_id IS 'The call';
COMMENT ON COLUMN analytics.calls.kind IS
    'agent where a transfer leads to the call; greeting where a clone or a transfer comes from it; null where no event tells';
COMMENT ON COLUMN analytics.calls.caller_id IS 'The caller''s phone number (personal data); null where no event gave it';
COMMENT ON COLUMN analytics.calls.cloned_voice_id IS 'The voice used in the call; null where no event gave it';
COMMENT ON COLUMN analytics.calls.status IS 'initiated (no end was recorded), completed or failed';
COMMENT ON COLUMN analytics.calls.call_started_at IS 'When the call started, UTC; null where no event tells';
COMMENT ON COLUMN analytics.calls.call_ended_at IS 'When the call ended, UTC; null where no event tells';
COMMENT ON COLUMN analytics.calls.duration_seconds IS 'Seconds that the call lasted; null where no event tells';
COMMENT ON COLUMN analytics.calls.created_at IS
    'Timestamp of the call''s first record, UTC: filter by this column, as call_started_at has no index';

COMMENT ON VIEW analytics.handovers IS 'Each transfer of a call from the greeting to the agent';
COMMENT ON COLUMN analytics.handovers.id IS 'id of the row of clone_transfer_events';
COMMENT ON COLUMN analytics.handovers.transferred_at IS 'When the call was transferred, UTC: filter by this column';
COMMENT ON COLUMN analytics.handovers.greeting_call_id IS 'The greeting call';
COMMENT ON COLUMN analytics.handovers.cloned_voice_id IS 'The voice that the agent speaks with';
COMMENT ON COLUMN analytics.handovers.agent_call_id IS 'The agent''s call';
COMMENT ON COLUMN analytics.handovers.greeting_started_at IS 'When the greeting call started, UTC; null where no event tells';
COMMENT ON COLUMN analytics.handovers.cloned_at IS 'When this greeting''s clone of the voice was ready, UTC; null where from_cache';
COMMENT ON COLUMN analytics.handovers.from_cache IS 'Whether the voice was not cloned during this greeting, but earlier';
COMMENT ON COLUMN analytics.handovers.seconds IS 'Seconds from the start of the greeting to the transfer; null where the start is not known';
COMMENT ON COLUMN analytics.handovers.outcome IS
    'Status of the agent''s call: completed, failed, or initiated where no end was recorded; null where the call was not';
COMMENT ON COLUMN analytics.handovers.agent_seconds IS 'Seconds that the agent''s call lasted; null where no event tells';

COMMENT ON VIEW analytics.voices IS 'Each cached voice: one row for a caller and a voice, without the caller';
COMMENT ON COLUMN analytics.voices.id IS 'id of the row of voice_clone_cache';
COMMENT ON COLUMN analytics.voices.cloned_voice_id IS 'The voice';
COMMENT ON COLUMN analytics.voices.clone_created_at IS 'When the voice was cloned, UTC';
COMMENT ON COLUMN analytics.voices.uses IS 'How many transfers used the voice; 0 where none did';
COMMENT ON COLUMN analytics.voices.last_used_at IS 'When the voice was cloned again or transferred last, UTC';
COMMENT ON COLUMN analytics.voices.live IS 'Whether the voice can be used now: its time is not over';
COMMENT ON COLUMN analytics.voices.ttl_expires_at IS 'When the voice''s time is over, UTC: filter by this column';
COMMENT ON COLUMN analytics.voices.deleted_at IS 'When the expiry run found its time over, UTC; null until then';

COMMENT ON VIEW analytics.hourly IS 'One row for each hour in which anything happened';
COMMENT ON COLUMN analytics.hourly.hour IS 'Start of the hour, UTC: filter by this column';
COMMENT ON COLUMN analytics.hourly.clones IS 'Tries to clone a voice, by event time';
COMMENT ON COLUMN analytics.hourly.clones_failed IS 'Of these the failed ones';
COMMENT ON COLUMN analytics.hourly.success_percent IS 'Successful tries of 100; null where there was no try';
COMMENT ON COLUMN analytics.hourly.p50_ms IS 'Median of the successful tries'' latency in milliseconds';
COMMENT ON COLUMN analytics.hourly.p95_ms IS '95th percentile of the successful tries'' latency in milliseconds';
COMMENT ON COLUMN analytics.hourly.handovers IS 'Transfers to the agent, by transferred_at';
COMMENT ON COLUMN analytics.hourly.from_cache IS 'Of these the ones whose voice was cloned earlier';
COMMENT ON COLUMN analytics.hourly.calls IS 'Calls of any kind, by the timestamp of their first record';
COMMENT ON COLUMN analytics.hourly.calls_failed IS 'Of these the ones with status failed';
COMMENT ON COLUMN analytics.hourly.call_seconds IS 'Seconds that these calls lasted together; null where no event tells';

-- The seven tables. A comment that somebody has set stays.
DO $$
DECLARE
    wanted RECORD;
    its OID;
    place SMALLINT;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
        ('caller_voice_mapping', NULL, 'The voice sample that a caller has chosen'),
        ('caller_voice_mapping', 'id', 'UUID computed from caller_id'),
        ('caller_voice_mapping', 'caller_id', 'The caller''s phone number in E.164 form (personal data)'),
        ('caller_voice_mapping', 'voice_sample_url', 'S3 URL or local path of the voice sample'),
        ('caller_voice_mapping', 'voice_name', 'Display name of the voice'),
        ('caller_voice_mapping', 'description', 'Optional description'),
        ('caller_voice_mapping', 'account_id', 'The account, where there are several tenants'),
        ('caller_voice_mapping', 'created_at', 'Timestamp of the caller''s first record, UTC'),
        ('caller_voice_mapping', 'updated_at', 'Latest event time, deletes included, UTC'),
        ('caller_voice_mapping', 'deleted_at', 'When the mapping was withdrawn, UTC; null while it holds'),
        ('voice_clone_cache', NULL, 'Cloned voices, which live for CACHE_TTL or as long as their event says'),
        ('voice_clone_cache', 'id', 'UUID computed from caller_id and cloned_voice_id'),
        ('voice_clone_cache', 'caller_id', 'The caller''s phone number (personal data)'),
        ('voice_clone_cache', 'cloned_voice_id', 'The voice at ElevenLabs'),
        ('voice_clone_cache', 'clone_created_at', 'When the voice was cloned first, UTC'),
        ('voice_clone_cache', 'ttl_expires_at', 'When its time is over, UTC'),
        ('voice_clone_cache', 'reuse_count', 'Number of transfers with this voice, at least 1; analytics.voices tells 0 from 1'),
        ('voice_clone_cache', 'last_used_at', 'When the voice was cloned again or transferred last, UTC'),
        ('voice_clone_cache', 'created_at', 'Timestamp of the first clone.ready record, UTC'),
        ('voice_clone_cache', 'deleted_at', 'When the expiry run found its time over, UTC; null while it lives'),
        ('call_log', NULL, 'Each call of the voice agent, greetings included'),
        ('call_log', 'id', 'UUID computed from call_id'),
        ('call_log', 'call_id', 'The call at ElevenLabs'),
        ('call_log', 'threecx_call_id', 'The call at 3CX'),
        ('call_log', 'caller_id', 'The caller''s phone number (personal data)'),
        ('call_log', 'cloned_voice_id', 'The voice used in the call'),
        ('call_log', 'call_started_at', 'When the call started, UTC'),
        ('call_log', 'call_ended_at', 'When the call ended, UTC'),
        ('call_log', 'duration_seconds', 'Seconds that the call lasted'),
        ('call_log', 'transcript', 'What was said (personal data)'),
        ('call_log', 'status', 'initiated, completed or failed'),
        ('call_log', 'metadata', 'Further data about the call, merged key by key'),
        ('call_log', 'created_at', 'Timestamp of the call''s first record, UTC'),
        ('call_log', 'updated_at', 'Timestamp of the call''s latest record, UTC'),
        ('voice_clone_log', NULL, 'Each try to clone a voice; analytics.clones has the event times of failures, too'),
        ('voice_clone_log', 'id', 'UUID computed from the id of the row of clone_ready_events or clone_failed_events'),
        ('voice_clone_log', 'caller_id', 'The caller''s phone number (personal data)'),
        ('voice_clone_log', 'cloned_voice_id', 'The voice at ElevenLabs'),
        ('voice_clone_log', 'clone_created_at', 'When the voice was cloned, UTC; null for a failure'),
        ('voice_clone_log', 'api_response_time_ms', 'Latency of the API in milliseconds'),
        ('voice_clone_log', 'sample_file_size_bytes', 'Size of the voice sample in bytes'),
        ('voice_clone_log', 'status', 'success or failed'),
        ('voice_clone_log', 'error_message', 'Why the try failed; null where it did not'),
        ('voice_clone_log', 'created_at', 'Timestamp of the first record of this try, UTC'),
        ('clone_ready_events', NULL, 'Voices that became ready'),
        ('clone_ready_events', 'id', 'UUID computed from caller_id, greeting_call_id and cloned_voice_id'),
        ('clone_ready_events', 'caller_id', 'The caller''s phone number (personal data)'),
        ('clone_ready_events', 'greeting_call_id', 'The greeting call'),
        ('clone_ready_events', 'cloned_voice_id', 'The voice at ElevenLabs'),
        ('clone_ready_events', 'clone_duration_ms', 'Milliseconds that the cloning took'),
        ('clone_ready_events', 'ready_at', 'When the voice was ready, UTC'),
        ('clone_ready_events', 'created_at', 'Timestamp of the first record of this event, UTC'),
        ('clone_failed_events', NULL, 'Tries to clone a voice that failed'),
        ('clone_failed_events', 'id', 'UUID computed from caller_id, greeting_call_id and failed_at'),
        ('clone_failed_events', 'caller_id', 'The caller''s phone number (personal data)'),
        ('clone_failed_events', 'greeting_call_id', 'The greeting call'),
        ('clone_failed_events', 'error_message', 'Why the try failed'),
        ('clone_failed_events', 'failed_at', 'When the try failed, UTC'),
        ('clone_failed_events', 'created_at', 'Timestamp of the first record of this event, UTC'),
        ('clone_transfer_events', NULL, 'Transfers of calls from the greeting to the agent'),
        ('clone_transfer_events', 'id', 'UUID computed from both calls and the voice'),
        ('clone_transfer_events', 'greeting_call_id', 'The greeting call'),
        ('clone_transfer_events', 'agent_call_id', 'The agent''s call'),
        ('clone_transfer_events', 'cloned_voice_id', 'The voice used'),
        ('clone_transfer_events', 'transferred_at', 'When the call was transferred, UTC'),
        ('clone_transfer_events', 'created_at', 'Timestamp of the first record of this event, UTC')
    ) AS comments_wanted (table_name, column_name, comment)
    LOOP
        its := format('public.%I', wanted.table_name)::regclass;
        IF wanted.column_name IS NULL THEN
            IF obj_description(its, 'pg_class') IS NULL THEN
                EXECUTE format('COMMENT ON TABLE public.%I IS %L', wanted.table_name, wanted.comment);
            END IF;
            CONTINUE;
        END IF;
        SELECT attnum INTO place FROM pg_catalog.pg_attribute
        WHERE attrelid = its AND attname = wanted.column_name AND NOT attisdropped;
        IF col_description(its, place) IS NULL THEN
            EXECUTE format('COMMENT ON COLUMN public.%I.%I IS %L', wanted.table_name, wanted.column_name, wanted.comment);
        END IF;
    END LOOP;
END
$$;

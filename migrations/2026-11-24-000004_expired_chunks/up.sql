-- clone.expired events (section 5) wait in chunks, as arrays: a row for each event took longer than expiring it.
-- The table is altered, not made anew, so that what was granted on it stays.
LOCK TABLE ingest.outbox IN ACCESS EXCLUSIVE MODE;
CREATE TABLE ingest.waiting AS
SELECT event_id, event_time, created_at, convert_from(value, 'UTF8')::json AS event FROM ingest.outbox;
DELETE FROM ingest.outbox;
DROP INDEX ingest.outbox_created_at;

ALTER TABLE ingest.outbox
    DROP COLUMN event_id,
    DROP COLUMN key,
    DROP COLUMN value,
    DROP COLUMN event_time,
    -- a chunk that the broker did not take whole gets a new one: it goes to the end of the queue
    ADD COLUMN id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ADD COLUMN expired_at TIMESTAMP NOT NULL,
    -- ids of cache rows, of which the events' ids are made; or of the events, where those waited before this migration
    ADD COLUMN ids UUID[] NOT NULL,
    ADD COLUMN of_events BOOLEAN NOT NULL DEFAULT false,
    ADD COLUMN caller_ids TEXT[] NOT NULL,
    ADD COLUMN cloned_voice_ids TEXT[] NOT NULL,
    ADD COLUMN clone_created_ats TIMESTAMP[] NOT NULL,
    ADD COLUMN ttl_expires_ats TIMESTAMP[] NOT NULL,
    ADD COLUMN reuse_counts INTEGER[] NOT NULL,
    ADD COLUMN last_used_ats TIMESTAMP[] NOT NULL,
    ADD CHECK (cardinality(ids) = ALL (ARRAY[
        cardinality(caller_ids), cardinality(cloned_voice_ids), cardinality(clone_created_ats),
        cardinality(ttl_expires_ats), cardinality(reuse_counts), cardinality(last_used_ats)])),
    -- to compress them took longer than to write them
    ALTER COLUMN ids SET STORAGE EXTERNAL,
    ALTER COLUMN caller_ids SET STORAGE EXTERNAL,
    ALTER COLUMN cloned_voice_ids SET STORAGE EXTERNAL,
    ALTER COLUMN clone_created_ats SET STORAGE EXTERNAL,
    ALTER COLUMN ttl_expires_ats SET STORAGE EXTERNAL,
    ALTER COLUMN reuse_counts SET STORAGE EXTERNAL,
    ALTER COLUMN last_used_ats SET STORAGE EXTERNAL;

-- The point in time that the program wrote. Rows of another tool's making may hold times outside of what the
-- contract allows: years beyond four digits, before 1, and those for which the program knows no date.
CREATE FUNCTION ingest.moment(written TEXT) RETURNS TIMESTAMP LANGUAGE plpgsql AS $$
DECLARE
    micros NUMERIC := substring(written FROM '^(-?\d+) microseconds since 1970$');
    part TEXT[] := regexp_match(written, '^([+-]?\d+)-(\d+)-(\d+)T(\d+):(\d+):([\d.]+)Z$');
BEGIN
    IF micros = 9223372036854775807 THEN
        RETURN 'infinity';
    ELSIF micros = -9222425352054775808 THEN
        RETURN '-infinity';
    ELSIF micros IS NOT NULL THEN
        RETURN TIMESTAMP '1970-01-01' + div(micros, 86400000000)::integer * INTERVAL '1 day'
               + mod(micros, 86400000000)::bigint * INTERVAL '1 microsecond';
    END IF;
    -- the program counts a year 0, PostgreSQL from 1 before our era to 1
    RETURN make_timestamp(part[1]::integer - (part[1]::integer <= 0)::integer, part[2]::integer, part[3]::integer,
                          part[4]::integer, part[5]::integer, part[6]::double precision);
END
$$;
INSERT INTO ingest.outbox (created_at, expired_at, ids, of_events, caller_ids, cloned_voice_ids, clone_created_ats,
                           ttl_expires_ats, reuse_counts, last_used_ats)
SELECT min(created_at), ingest.moment(event_time), array_agg(event_id), true, array_agg(event->>'caller_id'),
       array_agg(event->>'cloned_voice_id'), array_agg(ingest.moment(event->>'clone_created_at')),
       array_agg(ingest.moment(event->>'ttl_expires_at')), array_agg((event->>'reuse_count')::integer),
       array_agg(ingest.moment(event->>'last_used_at'))
FROM ingest.waiting
GROUP BY event_time
ORDER BY 1;
DROP FUNCTION ingest.moment;
DROP TABLE ingest.waiting;

-- Each row of the cache gets a second version when it expires. Where that finds room in the row's own page the indexes
-- need no entry, which is much quicker. A table whose rows have expired is no larger for it.
-- A value that somebody has set stays; a partitioned table has none.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = 'public.voice_clone_cache'::regclass AND relkind = 'r'
               AND NOT COALESCE(array_to_string(reloptions, ','), '') LIKE '%fillfactor=%') THEN
        ALTER TABLE public.voice_clone_cache SET (fillfactor = 50);
    END IF;
END
$$;

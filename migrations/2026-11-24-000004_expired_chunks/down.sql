-- An event in the earlier form has an id that SQL cannot compute. The cache rows whose events wait become due again
-- instead: they expire in the next run, with the same event id and a new time. An event is lost where its row has been
-- made live again since.
LOCK TABLE ingest.outbox IN ACCESS EXCLUSIVE MODE;
UPDATE public.voice_clone_cache c SET deleted_at = NULL
FROM (SELECT o.expired_at, u.* FROM ingest.outbox o,
             unnest(o.caller_ids, o.cloned_voice_ids, o.ttl_expires_ats) AS u (caller_id, cloned_voice_id, ttl_expires_at)
     ) AS w
WHERE c.deleted_at = w.expired_at AND c.ttl_expires_at = w.ttl_expires_at
  AND c.caller_id IS NOT DISTINCT FROM w.caller_id AND c.cloned_voice_id IS NOT DISTINCT FROM w.cloned_voice_id;
DELETE FROM ingest.outbox;

ALTER TABLE ingest.outbox
    DROP COLUMN id,
    DROP COLUMN expired_at,
    DROP COLUMN ids,
    DROP COLUMN of_events,
    DROP COLUMN caller_ids,
    DROP COLUMN cloned_voice_ids,
    DROP COLUMN clone_created_ats,
    DROP COLUMN ttl_expires_ats,
    DROP COLUMN reuse_counts,
    DROP COLUMN last_used_ats,
    ADD COLUMN event_id UUID PRIMARY KEY,
    ADD COLUMN key BYTEA,
    ADD COLUMN value BYTEA NOT NULL,
    ADD COLUMN event_time TEXT NOT NULL;
CREATE INDEX outbox_created_at ON ingest.outbox (created_at);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_class
               WHERE oid = 'public.voice_clone_cache'::regclass AND 'fillfactor=50' = ANY (reloptions)) THEN
        ALTER TABLE public.voice_clone_cache RESET (fillfactor);
    END IF;
END
$$;

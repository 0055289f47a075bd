-- Beside what `skip` passed over: the offsets that the log no longer had when the daemon wanted to go on from them, kept for
-- good. They go into this table, as the daemon's role already has its rights. The version before writes no such rows.
ALTER TABLE ingest.skips
    ADD COLUMN cause TEXT NOT NULL DEFAULT 'skip' CHECK (cause IN ('skip', 'removed', 'recreated')),
    -- NULL where the topic was recreated: nobody knows what the old one still held from from_offset on
    ALTER COLUMN to_offset DROP NOT NULL;

-- A partition whose DEAD_LETTER_LIMIT is reached stops (contract, section 6): the moment stands beside the count, and
-- only `dead-letters accept` clears it.
ALTER TABLE ingest.consumer_offsets ADD COLUMN stopped_at TIMESTAMP;

-- What `skip` passed over, kept for good.
CREATE TABLE ingest.skips (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    group_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    from_offset BIGINT NOT NULL,        -- the first offset passed over
    to_offset BIGINT NOT NULL,          -- the offset that is read next
    note TEXT NOT NULL,                 -- why, in the operator's words
    skipped_at TIMESTAMP NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    CHECK (from_offset < to_offset)
);

-- One row for each running instance, updated every few seconds: proof that the database takes writes (contract,
-- section 7), and the list of instances for `status`.
CREATE TABLE ingest.instances (
    id UUID PRIMARY KEY,
    group_id TEXT NOT NULL,
    host TEXT NOT NULL,
    version TEXT NOT NULL,
    started_at TIMESTAMP NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    beat_at TIMESTAMP NOT NULL DEFAULT (now() AT TIME ZONE 'utc')
);

-- What `pause` holds still, until `resume` or the moment in `until`. An empty topic stands for all of them.
CREATE TABLE ingest.pauses (
    group_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    paused_at TIMESTAMP NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    until TIMESTAMP,
    PRIMARY KEY (group_id, topic)
);

-- The daemon's own bookkeeping (contract, section 1): nothing of it stands in schema public.
CREATE SCHEMA ingest;

-- Tables that another tool had made before this one came: rolling back leaves them alone.
CREATE TABLE ingest.adopted_tables (
    table_name TEXT PRIMARY KEY
);

INSERT INTO ingest.adopted_tables (table_name)
SELECT tablename FROM pg_catalog.pg_tables
WHERE schemaname = 'public'
  AND tablename IN ('caller_voice_mapping', 'voice_clone_cache', 'call_log', 'voice_clone_log',
                    'clone_ready_events', 'clone_failed_events', 'clone_transfer_events');

-- Where each partition goes on (section 7); written in the transaction of the rows.
CREATE TABLE ingest.consumer_offsets (
    group_id TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next_offset BIGINT NOT NULL CHECK (next_offset >= 0),
    -- unusable records since the last usable one; DEAD_LETTER_LIMIT compares with it (section 6)
    dead_in_a_row BIGINT NOT NULL DEFAULT 0 CHECK (dead_in_a_row >= 0),
    updated_at TIMESTAMP NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    PRIMARY KEY (group_id, topic, partition)
);

-- Records that could not be used (section 6), to be published while published_at is null.
CREATE TABLE ingest.dead_letters (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    record_offset BIGINT NOT NULL,
    record_timestamp TIMESTAMP NOT NULL,
    key BYTEA,
    value BYTEA,
    -- name, value, name, value, ...: the bytes as they came; a null value is NULL
    headers BYTEA[] NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    resolved_at TIMESTAMP,
    published_at TIMESTAMP,
    UNIQUE (topic, partition, record_offset, record_timestamp)
);
CREATE INDEX dead_letters_unpublished ON ingest.dead_letters (id) WHERE published_at IS NULL;

-- clone.expired events (section 5) that are still to be published; a row goes once the broker has it.
CREATE TABLE ingest.outbox (
    event_id UUID PRIMARY KEY,
    key BYTEA,
    value BYTEA NOT NULL,
    -- ce_time: the row's deleted_at
    event_time TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL DEFAULT (now() AT TIME ZONE 'utc')
);
CREATE INDEX outbox_created_at ON ingest.outbox (created_at);

-- One row a voice: what its transfers say, and the lock that ready and transfer events of one voice
-- share, as neither transaction sees the other's rows.
CREATE TABLE ingest.voices (
    cloned_voice_id VARCHAR(255) COLLATE "C" PRIMARY KEY,
    transfers BIGINT NOT NULL DEFAULT 0,
    last_transferred_at TIMESTAMP
);

-- One row a call: the event time of each value in call_log, so that an older event never overwrites a
-- newer one. 0001-01-01 is the time of a value that another tool had written: older than all.
CREATE TABLE ingest.calls (
    call_id VARCHAR(255) COLLATE "C" PRIMARY KEY,
    initiated_at TIMESTAMP,             -- earliest 'initiated'
    terminal_at TIMESTAMP,              -- latest 'completed' or 'failed', whose status stands
    threecx_call_id_at TIMESTAMP,
    caller_id_at TIMESTAMP,
    cloned_voice_id_at TIMESTAMP,
    call_started_at_at TIMESTAMP,       -- null where call_started_at is derived, not given
    call_ended_at_at TIMESTAMP,         -- likewise
    duration_seconds_at TIMESTAMP,      -- likewise
    transcript_at TIMESTAMP,
    metadata_at TIMESTAMP,              -- latest event with metadata, were it {}
    metadata_keys_at TEXT               -- JSON: top-level key to microseconds since 1970
);

-- One row a caller: the times behind caller_voice_mapping, also where only deletes came so far.
CREATE TABLE ingest.mappings (
    caller_id VARCHAR(255) COLLATE "C" PRIMARY KEY,
    state_at TIMESTAMP,                 -- event time of the state in the table
    deleted_at TIMESTAMP,               -- latest delete, also one that a later state undid
    updated_at TIMESTAMP,               -- latest event
    created_at TIMESTAMP                -- earliest record
);

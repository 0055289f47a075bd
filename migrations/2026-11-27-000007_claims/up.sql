-- What is to be published is claimed in a short transaction, sent outside of any, and settled in another one (contract,
-- sections 5 and 6): no transaction waits for the broker while it holds locks. A claim ends at publish_at; until then no
-- other instance takes the row.
ALTER TABLE ingest.outbox
    ADD COLUMN publish_at TIMESTAMP NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),    -- published from then on
    ADD COLUMN publish_claim UUID,                          -- of the instance that publishes it; else NULL
    ADD COLUMN publish_tries INTEGER NOT NULL DEFAULT 0;    -- failed ones, which make the pauses grow
CREATE INDEX outbox_publish_at ON ingest.outbox (publish_at, id);

-- tried_at and its index stay for the version before, which may run beside this one.
ALTER TABLE ingest.dead_letters
    ADD COLUMN publish_at TIMESTAMP NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
    ADD COLUMN publish_claim UUID,
    ADD COLUMN publish_tries INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN unpublishable TEXT,      -- why the broker refuses it for good, as for its size; tried once a day
    ADD COLUMN bytes BIGINT,            -- memory that the record takes; NULL in rows older than this column
    ADD COLUMN resolution TEXT CHECK (resolution IN ('retried', 'fixed', 'discarded', 'replayed')),
    ADD COLUMN note TEXT,
    ADD COLUMN tries INTEGER NOT NULL DEFAULT 0,            -- how often the record was tried again
    ADD COLUMN last_tried_at TIMESTAMP;
CREATE INDEX dead_letters_publish_at ON ingest.dead_letters (publish_at, id) WHERE published_at IS NULL;

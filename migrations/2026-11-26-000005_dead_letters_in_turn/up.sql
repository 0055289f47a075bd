-- Dead letters that the broker did not take go to the end of the queue: what it never takes holds nobody up.
ALTER TABLE ingest.dead_letters ADD COLUMN tried_at TIMESTAMP;
DROP INDEX ingest.dead_letters_unpublished;
CREATE INDEX dead_letters_unpublished ON ingest.dead_letters (tried_at NULLS FIRST, id) WHERE published_at IS NULL;

DROP INDEX ingest.dead_letters_unpublished;
CREATE INDEX dead_letters_unpublished ON ingest.dead_letters (id) WHERE published_at IS NULL;
ALTER TABLE ingest.dead_letters DROP COLUMN tried_at;

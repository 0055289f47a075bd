DROP INDEX ingest.dead_letters_unpublished;
ALTER TABLE ingest.dead_letters
    DROP COLUMN last_tried_at,
    DROP COLUMN tries,
    DROP COLUMN note,
    DROP COLUMN resolution,
    DROP COLUMN bytes,
    DROP COLUMN unpublishable,
    DROP COLUMN publish_tries,
    DROP COLUMN publish_claim,
    DROP COLUMN publish_at;
CREATE INDEX dead_letters_unpublished ON ingest.dead_letters (tried_at NULLS FIRST, id) WHERE published_at IS NULL;

DROP INDEX ingest.outbox_publish_at;
ALTER TABLE ingest.outbox DROP COLUMN publish_tries, DROP COLUMN publish_claim, DROP COLUMN publish_at;

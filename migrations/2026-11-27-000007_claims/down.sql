DROP INDEX ingest.dead_letters_publish_at;
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

DROP INDEX ingest.outbox_publish_at;
ALTER TABLE ingest.outbox DROP COLUMN publish_tries, DROP COLUMN publish_claim, DROP COLUMN publish_at;

DROP TABLE ingest.pauses;
DROP TABLE ingest.instances;
DROP TABLE ingest.skips;
ALTER TABLE ingest.consumer_offsets DROP COLUMN stopped_at;

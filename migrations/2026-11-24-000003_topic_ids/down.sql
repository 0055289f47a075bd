ALTER TABLE ingest.consumer_offsets DROP COLUMN topic_id;

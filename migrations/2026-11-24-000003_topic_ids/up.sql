-- Which topic a stored offset is of (section 7): one that was deleted and made anew has the old one's name
-- and another id. NULL where it is not known yet, or the broker tells none.
ALTER TABLE ingest.consumer_offsets ADD COLUMN topic_id UUID;

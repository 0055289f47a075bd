ALTER TABLE ingest.instances DROP COLUMN waiting;

DELETE FROM ingest.skips WHERE cause <> 'skip';
ALTER TABLE ingest.skips DROP COLUMN cause, ALTER COLUMN to_offset SET NOT NULL;

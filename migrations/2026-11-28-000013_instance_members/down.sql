ALTER TABLE ingest.instances DROP COLUMN member_id;

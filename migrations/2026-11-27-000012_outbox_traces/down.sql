ALTER TABLE ingest.outbox DROP COLUMN traceparent;

-- The trace context of the expiry run, published as the header `traceparent` of its events: stored, so that a repeated event
-- has the same bytes. NULL where traces are off, and then no header is published. The version before writes no such column
-- and goes on working beside this one.
ALTER TABLE ingest.outbox ADD COLUMN traceparent TEXT;

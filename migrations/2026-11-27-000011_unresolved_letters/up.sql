-- The metrics count dead letters that nobody has resolved every 15 s: without reading those that are.
CREATE INDEX dead_letters_unresolved ON ingest.dead_letters (reason) WHERE resolved_at IS NULL;

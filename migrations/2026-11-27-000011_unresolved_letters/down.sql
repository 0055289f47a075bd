DROP INDEX ingest.dead_letters_unresolved;

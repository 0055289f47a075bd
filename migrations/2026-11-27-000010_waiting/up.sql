-- What the partitions of an instance wait for, written with its sign of life, for `status`: a list of at most 100 objects,
-- as `/readyz` has them under `waiting`. The version before writes no such column and goes on working beside this one.
ALTER TABLE ingest.instances ADD COLUMN waiting JSONB NOT NULL DEFAULT '[]';

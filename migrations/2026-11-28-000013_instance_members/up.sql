-- The id that the group gave the instance as its member, for `status`: NULL while it is none. The version before writes no
-- such column and goes on working beside this one.
ALTER TABLE ingest.instances ADD COLUMN member_id TEXT;

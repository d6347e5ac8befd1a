-- Hooks on their way to another namespace. Its twin is migrations/postgres/0015_hook_moves.sql.

-- Where it goes, and the version of the configuration with which it stopped: it goes on there, in whatever hands, as
-- soon as every node acts by that version or a later one.
alter table hooks add column moves_to text;
alter table hooks add column moves_version integer;
update hooks set moves_to = namespace, moves_version = 0 where moves_at is not null;

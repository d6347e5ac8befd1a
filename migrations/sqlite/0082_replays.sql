-- Replays of stored events. Its twin is migrations/postgres/0082_replays.sql.

-- A replay is a row of handlers that nothing else sees, as it counts as deleted: it delivers events of one stream up to replay_to
-- once more, as the handler replay_of does. It goes when it is there. Its cursor begins before the first of them.
alter table handlers add column replay_of integer;
alter table handlers add column replay_stream integer;
alter table handlers add column replay_to integer;

-- Forward handlers. Its twin is migrations/sqlite/0060_forwards.sql.

-- terms: the settings of a handler that is not a reducer, as JSON; its `reduce` is empty. secrets: the texts that
-- sign its requests, as a JSON list, the newest first.
alter table handlers add column kind text not null default 'reduce';
alter table handlers add column terms text;
alter table handlers add column secrets text;

-- Cursors whose delivery was in flight when its node gave the lane away. The next owner leaves them alone until the
-- node has removed the row, or is gone itself.
create table in_flight (
  stream bigint not null,
  handler bigint not null,
  node text not null,
  primary key (stream, handler)
);

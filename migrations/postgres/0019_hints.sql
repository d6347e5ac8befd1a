-- Hints wiped and made again on every node. Its twin is migrations/sqlite/0019_hints.sql.

-- What an operator asks of all nodes, for an hour.
create table hint_requests (
  id bigint generated always as identity primary key,
  namespace text,                                        -- none: all of them
  dry_run bigint not null,                               -- 1: only look
  asked_at bigint not null
);

-- What each node says of the lanes that it runs.
create table hint_answers (
  request bigint not null,
  node text not null,
  lanes bigint not null,
  hinted bigint not null,
  behind bigint not null,
  forgotten bigint not null,
  primary key (request, node)
);

-- Hints wiped and made again on every node. Its twin is migrations/postgres/0019_hints.sql.

-- What an operator asks of all nodes, for an hour.
create table hint_requests (
  id integer primary key autoincrement,
  namespace text,                                        -- none: all of them
  dry_run integer not null,                              -- 1: only look
  asked_at integer not null
) strict;

-- What each node says of the lanes that it runs.
create table hint_answers (
  request integer not null,
  node text not null,
  lanes integer not null,
  hinted integer not null,
  behind integer not null,
  forgotten integer not null,
  primary key (request, node)
) strict;

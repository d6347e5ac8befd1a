-- The tables that correctness rests on, SQLite form. Its twin is migrations/postgres/0001_first.sql: the same relations and columns,
-- but for `log`, which only SQLite has: there, `events` is a view over it.
-- Portable types only: integer (ids, counts, milliseconds), text, blob. autoincrement: a number that was deleted is never given again.

create table counters (
  name text primary key,
  value integer not null
) strict;
-- config_version: raised with every change of hooks, handlers, keys, namespaces or lane sets.
-- epoch: drawn by every take of a lane. indexed: the newest row of `log` that log_index knows.
insert into counters (name, value) values ('config_version', 1), ('epoch', 0), ('indexed', 0);

create table namespaces (
  id integer primary key autoincrement,
  name text not null unique,
  created_at integer not null
) strict;

create table lane_sets (
  namespace text not null,
  generation integer not null,
  lanes integer not null check (lanes between 1 and 1024),
  state text not null check (state in ('planned', 'opening', 'stable', 'closing', 'closed')),
  created_at integer not null,
  primary key (namespace, generation)
) strict;

create table hooks (
  id integer primary key autoincrement,
  namespace text not null,
  name text not null,
  order_by text not null,
  unordered text not null check (unordered in ('refuse', 'keep')),
  body_max integer not null,
  created_at integer not null,
  deleted_at integer
) strict;
create unique index hooks_name on hooks (name) where deleted_at is null;

create table handlers (
  id integer primary key autoincrement,
  hook integer not null,
  name text not null,
  reduce text not null,
  source text,
  fold integer not null default 1,
  on_error text not null check (on_error in ('hold', 'skip')),
  quiet_ms integer,
  longest_ms integer,
  created_at integer not null,
  deleted_at integer
) strict;
create unique index handlers_name on handlers (hook, name) where deleted_at is null;

create table keys (
  id integer primary key autoincrement,
  key_id text not null unique,
  name text not null,
  kind text not null check (kind in ('write', 'read', 'admin')),
  hook integer,
  hash blob not null,
  created_at integer not null,
  expires_at integer,
  revoked_at integer,
  last_used_at integer,
  last_used_from text
) strict;

-- Written by ingest only. Cursors are in a table of their own, so that ingest and handlers never wait for each other's rows.
create table streams (
  id integer primary key autoincrement,
  hook integer not null,
  ordering_key text not null,
  slot integer not null,
  head integer not null default 0,
  floor integer not null default 0,
  created_at integer not null,
  unique (hook, ordering_key)
) strict;

-- Every event in the order in which it was stored. Nothing but the append touches it on the hot path; what finds an event by its
-- place or its id (log_index, log_ids) is built behind it in large sorted batches, up to counters.indexed.
create table log (
  n integer primary key,
  stream integer not null,
  seq integer not null,
  id blob not null,
  received_at integer not null,
  key_id integer,
  dedupe_key text,
  headers text not null,
  body blob not null
) strict;
create unique index log_dedupe on log (stream, dedupe_key) where dedupe_key is not null;

-- A doubled (stream, seq) or id is an error here, never a silent misorder.
create table log_index (
  stream integer not null,
  seq integer not null,
  n integer not null,
  primary key (stream, seq)
) strict, without rowid;
create table log_ids (
  id blob primary key,
  n integer not null
) strict, without rowid;

-- The log as Postgres keeps it: by stream and seq, complete in every snapshot, whether indexed yet or not.
create view events as
  select i.stream, i.seq, l.id, l.received_at, l.key_id, l.dedupe_key, l.headers, l.body
    from log_index i join log l on l.n = i.n
  union all
  select stream, seq, id, received_at, key_id, dedupe_key, headers, body
    from log where n > (select value from counters where name = 'indexed');

create table cursors (
  stream integer not null,
  handler integer not null,
  position integer not null default 0,
  era integer not null default 1,
  base integer not null default 0,
  state text,
  chain blob not null,
  condition text not null default 'flowing' check (condition in ('flowing', 'waiting', 'held')),
  retry_at integer,
  tries integer not null default 0,
  reason text,
  updated_at integer not null,
  primary key (stream, handler)
) strict;
create index cursors_set_aside on cursors (handler, condition) where condition <> 'flowing';

create table dead_letters (
  handler integer not null,
  stream integer not null,
  seq integer not null,
  reason text not null,
  created_at integer not null,
  primary key (handler, stream, seq)
) strict;

-- The tables that correctness rests on, Postgres form. Its twin is migrations/sqlite/0001_first.sql: the same relations and columns.
-- Portable types only: bigint (ids, counts, milliseconds), text, bytea. identity: a number that was deleted is never given again.

create table counters (
  name text primary key,
  value bigint not null
);
-- config_version: raised with every change of hooks, handlers, keys, namespaces or lane sets.
-- epoch: drawn by every take of a lane.
insert into counters (name, value) values ('config_version', 1), ('epoch', 0);

create table namespaces (
  id bigint generated always as identity primary key,
  name text collate "C" not null unique,
  created_at bigint not null
);

create table lane_sets (
  namespace text not null,
  generation bigint not null,
  lanes bigint not null check (lanes between 1 and 1024),
  state text not null check (state in ('planned', 'opening', 'stable', 'closing', 'closed')),
  created_at bigint not null,
  primary key (namespace, generation)
);

create table hooks (
  id bigint generated always as identity primary key,
  namespace text not null,
  name text collate "C" not null,
  order_by text not null,
  unordered text not null check (unordered in ('refuse', 'keep')),
  body_max bigint not null,
  created_at bigint not null,
  deleted_at bigint
);
create unique index hooks_name on hooks (name) where deleted_at is null;

create table handlers (
  id bigint generated always as identity primary key,
  hook bigint not null,
  name text not null,
  reduce text not null,
  source text,
  fold bigint not null default 1,
  on_error text not null check (on_error in ('hold', 'skip')),
  quiet_ms bigint,
  longest_ms bigint,
  created_at bigint not null,
  deleted_at bigint
);
create unique index handlers_name on handlers (hook, name) where deleted_at is null;

create table keys (
  id bigint generated always as identity primary key,
  key_id text not null unique,
  name text not null,
  kind text not null check (kind in ('write', 'read', 'admin')),
  hook bigint,
  hash bytea not null,
  created_at bigint not null,
  expires_at bigint,
  revoked_at bigint,
  last_used_at bigint,
  last_used_from text
);

-- Written by ingest only. Cursors are in a table of their own, so that ingest and handlers never wait for each other's rows.
-- Ordering keys are compared as bytes.
create table streams (
  id bigint generated always as identity primary key,
  hook bigint not null,
  ordering_key text collate "C" not null,
  slot bigint not null,
  head bigint not null default 0,
  floor bigint not null default 0,
  created_at bigint not null,
  unique (hook, ordering_key)
);
-- Each node sweeps its own slots; the one SQLite node sweeps them all, and spares the index.
create index streams_slot on streams (slot);

-- A doubled (stream, seq) or id is an error here, never a silent misorder.
create table events (
  stream bigint not null,
  seq bigint not null,
  id bytea not null unique,
  received_at bigint not null,
  key_id bigint,
  dedupe_key text collate "C",
  headers text not null,
  body bytea not null,
  primary key (stream, seq)
);
create unique index events_dedupe on events (stream, dedupe_key) where dedupe_key is not null;

create table cursors (
  stream bigint not null,
  handler bigint not null,
  position bigint not null default 0,
  era bigint not null default 1,
  base bigint not null default 0,
  state text,
  chain bytea not null,
  condition text not null default 'flowing' check (condition in ('flowing', 'waiting', 'held')),
  retry_at bigint,
  tries bigint not null default 0,
  reason text,
  updated_at bigint not null,
  primary key (stream, handler)
);
create index cursors_set_aside on cursors (handler, condition) where condition <> 'flowing';

create table dead_letters (
  handler bigint not null,
  stream bigint not null,
  seq bigint not null,
  reason text not null,
  created_at bigint not null,
  primary key (handler, stream, seq)
);

-- The provider's order. Its twin is migrations/postgres/0090_versions.sql.

-- version_by: the place of the version in an event, written as in order_by; null where events are ordered by arrival alone.
-- version_rule: rises when the place changes, since versions at two places cannot be compared. late: the treatment of late events.
-- reorder_ms: the time for which an event is held back; null for none.
alter table hooks add column version_by text;
alter table hooks add column version_rule integer not null default 0;
alter table hooks add column late text not null default 'mark';
alter table hooks add column reorder_ms integer;

-- version: the highest one that the stream has, written as domain/version.rs does. late: the number of its late events.
alter table streams add column version text;
alter table streams add column late integer not null default 0;

-- The treatment of the event if it is late: apply, mark or skip. Decided once, together with the seq.
alter table log add column late text;

drop view events;
create view events as
  select i.stream, i.seq, l.id, l.received_at, l.key_id, l.dedupe_key, l.headers, l.body,
         case when l.stream = i.stream and l.seq = i.seq then l.checksum else -1 end as checksum, l.late
    from log_index i join log l on l.n = i.n
    where i.n <= (select value from counters where name = 'indexed')
  union all
  select stream, seq, id, received_at, key_id, dedupe_key, headers, body, checksum, late
    from log where n > (select value from counters where name = 'indexed');

-- Events that are held back for a reorder window. They are durable and acknowledged, but have no seq: they get one when they are
-- released, in the order of their versions. An event without a version has an empty one.
create table waiting (
  n integer primary key autoincrement,
  hook integer not null,
  ordering_key text not null,
  slot integer not null,
  id blob not null unique,
  received_at integer not null,
  key_id integer,
  dedupe_key text,
  headers text not null,
  body blob not null,
  checksum integer not null,
  version text not null,
  late text not null,
  due_at integer not null
) strict;
create unique index waiting_dedupe on waiting (hook, ordering_key, dedupe_key) where dedupe_key is not null;
create index waiting_order on waiting (hook, ordering_key, version, received_at, n);
create index waiting_due on waiting (due_at);

-- The feed of a hook reads the events of all its streams in one order. Its twin is migrations/postgres/0110_feed.sql.

-- place: the row number in the log, which is the order of storing.
drop view events;
create view events as
  select i.stream, i.seq, l.id, l.received_at, l.key_id, l.dedupe_key, l.headers, l.body,
         case when l.stream = i.stream and l.seq = i.seq then l.checksum else -1 end as checksum, l.late, l.n as place
    from log_index i join log l on l.n = i.n
    where i.n <= (select value from counters where name = 'indexed')
  union all
  select stream, seq, id, received_at, key_id, dedupe_key, headers, body, checksum, late, n
    from log where n > (select value from counters where name = 'indexed');

-- place: the highest one that retention has removed from the hook. cuts: the number of removals, so that a reader behind that place
-- can tell if something was removed since it began.
create table feed_floors (
  hook integer primary key,
  place integer not null,
  cuts integer not null
) strict, without rowid;

-- Each event carries a checksum, which is compared with what is read. Its twin is migrations/postgres/0045_checksums.sql.

-- CRC-32 of id, time, headers and body (domain/event.rs); null where the event was stored before there were checksums.
alter table log add column checksum integer;

-- A row that the index takes for another one has no checksum that could be right.
drop view events;
create view events as
  select i.stream, i.seq, l.id, l.received_at, l.key_id, l.dedupe_key, l.headers, l.body,
         case when l.stream = i.stream and l.seq = i.seq then l.checksum else -1 end as checksum
    from log_index i join log l on l.n = i.n
    where i.n <= (select value from counters where name = 'indexed')
  union all
  select stream, seq, id, received_at, key_id, dedupe_key, headers, body, checksum
    from log where n > (select value from counters where name = 'indexed');

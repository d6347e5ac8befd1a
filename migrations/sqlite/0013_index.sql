-- A run of the index goes into the file little by little; until it is complete, its rows are found in the
-- log itself, and only there.
drop view events;
create view events as
  select i.stream, i.seq, l.id, l.received_at, l.key_id, l.dedupe_key, l.headers, l.body
    from log_index i join log l on l.n = i.n
    where i.n <= (select value from counters where name = 'indexed')
  union all
  select stream, seq, id, received_at, key_id, dedupe_key, headers, body
    from log where n > (select value from counters where name = 'indexed');

-- What a failover of a server has cost: nothing, in a file. Its twin is migrations/postgres/0011_failover.sql.

insert into counters (name, value) values ('system', 0), ('timeline', 0);

create table lost_events (
  id blob primary key,
  hook integer not null,
  stream integer not null,
  seq integer not null,
  node text not null,
  found_at integer not null,
  seen_at integer
) strict;
create index lost_events_stream on lost_events (stream);

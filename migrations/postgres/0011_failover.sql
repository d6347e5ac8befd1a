-- What a failover of the server has cost. Its twin is migrations/sqlite/0011_failover.sql.

-- Of the server that wrote last: another one may not have all that this one was given.
insert into counters (name, value) values ('system', 0), ('timeline', 0);

-- Events that were acknowledged and that the server which took over does not have.
create table lost_events (
  id bytea primary key,
  hook bigint not null,
  stream bigint not null,
  seq bigint not null,
  node text not null,                                    -- which had acknowledged it
  found_at bigint not null,
  seen_at bigint                                         -- when an operator said that he knows
);
create index lost_events_stream on lost_events (stream);

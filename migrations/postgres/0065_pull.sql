-- Deliveries to consumers that ask. Its twin is migrations/sqlite/0065_pull.sql.

-- The last delivery of a cursor: open while it has a lease. Events after `position` up to `upto` are still to be
-- acknowledged. `number` counts the deliveries of the cursor, so a token of an earlier one is told by it.
create table deliveries (
  stream bigint not null,
  handler bigint not null,
  number bigint not null,
  era bigint not null,
  position bigint not null,
  upto bigint not null,
  attempt bigint not null,
  lease_until bigint,
  consumer text not null,
  primary key (stream, handler)
);

-- The pull handler that a read key may take deliveries of, by its name; the key names the hook.
alter table keys add column consume text;

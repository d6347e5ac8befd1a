-- Deliveries to consumers that ask. Its twin is migrations/postgres/0065_pull.sql.

-- The last delivery of a cursor: open while it has a lease. Events after `position` up to `upto` are still to be
-- acknowledged. `number` counts the deliveries of the cursor, so a token of an earlier one is told by it.
create table deliveries (
  stream integer not null,
  handler integer not null,
  number integer not null,
  era integer not null,
  position integer not null,
  upto integer not null,
  attempt integer not null,
  lease_until integer,
  consumer text not null,
  primary key (stream, handler)
) strict;

-- The pull handler that a read key may take deliveries of, by its name; the key names the hook.
alter table keys add column consume text;

-- Events that are kept for some time only. Its twin is migrations/postgres/0014_retention.sql.

-- For how long: 'forever', a time such as '30d', an amount such as '10GB'.
alter table hooks add column keep text not null default 'forever';

-- What a reducer made of the events up to the floor of a stream, which are gone: a fold from the beginning begins here.
-- fold: the oldest version of its code that had a part in it.
create table checkpoints (
  stream integer not null,
  handler integer not null,
  position integer not null,
  fold integer not null,
  state text,
  chain blob not null,
  primary key (stream, handler)
) strict;

-- Bytes of the events of a stream from its floor to measured, where an amount is kept.
create table sizes (
  stream integer primary key,
  measured integer not null,
  bytes integer not null
) strict, without rowid;

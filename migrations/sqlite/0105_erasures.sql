-- Streams that operators have erased and whose data is still being removed. Its twin is migrations/postgres/0105_erasures.sql.

-- A row is written in the transaction that deletes the stream, and goes when no byte of its data is left. It says nothing about the
-- stream but its number. stream: null if all of its events were held back. node: the node that removes the data.
create table erasures (
  id integer primary key autoincrement,
  stream integer,
  node text not null,
  asked_at integer not null
) strict;

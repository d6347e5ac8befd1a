-- Its twin is migrations/postgres/0005_moves.sql. In a file it stays empty.
create table moves (
  name text primary key,
  value integer not null
) strict;

-- How far everything has come that is being moved here from a file: it goes on where it was broken off, and no node starts
-- on a half of it. Its twin is migrations/sqlite/0005_moves.sql.
create table moves (
  name text primary key,                                 -- source: which file; events: streams done; finished; a table: 1
  value bigint not null
);

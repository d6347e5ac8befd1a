-- What operators changed. Its twin is migrations/postgres/0009_audit.sql.

-- One row for each operation that changed something; never a secret, never a body. Kept for 90 days.
create table audit (
  id integer primary key autoincrement,
  at integer not null,
  actor text not null,
  came_from text not null,                               -- 'socket', an address, or 'offline'
  operation text not null,
  subject text not null,
  reason text,
  details text not null                                  -- JSON
) strict;
create index audit_at on audit (at);

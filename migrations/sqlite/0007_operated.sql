-- Lanes, operated live. Its twin is migrations/postgres/0007_operated.sql.

-- Who stopped a lane, when and why; mode: what it does until somebody lets it go on.
alter table lanes add column mode text not null default 'active' check (mode in ('active', 'draining', 'drained', 'paused'));
alter table lanes add column mode_at integer;
alter table lanes add column mode_by text;
alter table lanes add column mode_reason text;

-- Who asked for a lane set, and why; none: it came with its namespace.
alter table lane_sets add column asked_by text;
alter table lane_sets add column reason text;

-- A hook whose cursors take no turns.
alter table hooks add column paused_at integer;
alter table hooks add column paused_by text;
alter table hooks add column paused_reason text;

-- Up to where a cursor of a draining lane moves; one that has no mark does not move.
create table marks (
  stream integer not null,
  handler integer not null,
  namespace text not null,
  slot integer not null,
  mark integer not null,
  primary key (stream, handler)
) strict;

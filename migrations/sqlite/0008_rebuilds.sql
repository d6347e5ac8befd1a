-- States folded again. Its twin is migrations/postgres/0008_rebuilds.sql.

-- One for each hook that was asked for; all that a crash must not forget, so that any node carries it on.
create table rebuilds (
  id integer primary key autoincrement,
  hook integer not null,
  handler integer not null,
  fold integer not null,                                      -- the version of its reducer
  ordering_key text,                                     -- of its only stream; none: all streams of the hook
  check_only integer not null,
  state text not null default 'running' check (state in ('running', 'done', 'failed')),
  node text,                                             -- who works on it; free when this names no node
  asked_by text not null,
  asked_at integer not null,
  ended_at integer,
  after_stream integer not null default 0,               -- every stream up to this one is done
  streams integer not null,
  streams_done integer not null default 0,
  events integer not null,
  events_done integer not null default 0,
  differ integer not null default 0,
  failed integer not null default 0,
  samples text not null default '[]',
  error text
) strict;
create unique index rebuilds_running on rebuilds (handler) where state = 'running';

-- Folds of long streams that are under way.
create table shadows (
  handler integer not null,
  stream integer not null,
  rebuild integer not null,
  position integer not null,
  state text,
  chain blob not null,
  primary key (handler, stream)
) strict;

-- States folded again. Its twin is migrations/sqlite/0008_rebuilds.sql.

-- One for each hook that was asked for; all that a crash must not forget, so that any node carries it on.
create table rebuilds (
  id bigint generated always as identity primary key,
  hook bigint not null,
  handler bigint not null,
  fold bigint not null,                                      -- the version of its reducer
  ordering_key text,                                     -- of its only stream; none: all streams of the hook
  check_only bigint not null,
  state text not null default 'running' check (state in ('running', 'done', 'failed')),
  node text,                                             -- who works on it; free when this names no node
  asked_by text not null,
  asked_at bigint not null,
  ended_at bigint,
  after_stream bigint not null default 0,               -- every stream up to this one is done
  streams bigint not null,
  streams_done bigint not null default 0,
  events bigint not null,
  events_done bigint not null default 0,
  differ bigint not null default 0,
  failed bigint not null default 0,
  samples text not null default '[]',
  error text
);
create unique index rebuilds_running on rebuilds (handler) where state = 'running';

-- Folds of long streams that are under way.
create table shadows (
  handler bigint not null,
  stream bigint not null,
  rebuild bigint not null,
  position bigint not null,
  state text,
  chain bytea not null,
  primary key (handler, stream)
);

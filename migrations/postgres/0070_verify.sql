-- Senders that sign. Its twin is migrations/sqlite/0070_verify.sql.

-- verify: the scheme that a hook checks; null where the write key is enough. tolerance_ms: how far the sender's clock
-- may be from ours. public_url: the URL that the sender has. secrets: a JSON list of encrypted secrets, the newest
-- first; so are those of handlers, but for what an earlier hooklane wrote in plain text.
alter table hooks add column verify text;
alter table hooks add column tolerance_ms bigint not null default 300000;
alter table hooks add column public_url text;
alter table hooks add column secrets text;

-- Requests that hooks rejected, a row for each reason. found: what the last one lacked. clock_ms: by how much its
-- sender's clock was ahead. sample: the last one as JSON, without signature, secret and body.
create table rejections (
  hook bigint not null,
  reason text not null,
  count bigint not null,
  first_at bigint not null,
  last_at bigint not null,
  found text not null,
  clock_ms bigint,
  sample text not null,
  primary key (hook, reason)
);

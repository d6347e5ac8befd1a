-- What the terminal shows and asks for. Its twin is migrations/postgres/0021_terminal.sql.

-- The age of the oldest event that may flow from which a namespace is late, and from which somebody must look.
alter table namespaces add column warn_ms integer not null default 10000;
alter table namespaces add column crit_ms integer not null default 60000;

-- Who made a key, as the audit trail calls him; none of those older than the trail.
alter table keys add column created_by text;
update keys set created_by = (select actor from audit
  where operation = 'keys create' and subject = 'k_' || keys.key_id order by id desc limit 1);

-- What a node has found to be normal: of a hook how many events come, of a handler how long each takes, and
-- how long a commit takes. mean: that of the logarithms, in millionths. What was not learned for a week goes.
create table normals (
  node text not null,
  kind text not null check (kind in ('hook', 'handler', 'commit')),
  subject integer not null,
  mean integer not null,
  samples integer not null,
  learned_at integer not null,
  primary key (node, kind, subject)
) strict;

-- Who runs which lane. Its twin is migrations/postgres/0003_nodes.sql.

-- The processes that share this database. A row that is gone never comes back under the same id: no row, no lease.
create table nodes (
  id text primary key,
  name text not null,
  data_dir text not null,
  hints text not null check (hints in ('memory', 'redis')),
  state text not null default 'live' check (state in ('live', 'leaving')),
  beat integer not null default 0,
  config_seen integer not null default 0,
  report text not null default '',
  started_at integer not null
) strict;

-- A lane is free exactly when its node is null or names no row of nodes. epoch: that of the newest take.
create table lanes (
  namespace text not null,
  generation integer not null,
  lane integer not null,
  node text,
  epoch integer not null default 0,
  sealed_at integer,
  primary key (namespace, generation, lane)
) strict;

insert into lanes (namespace, generation, lane)
  with recursive each(namespace, generation, lanes, lane) as (
    select s.namespace, s.generation, s.lanes, cast(0 as integer)
      from namespaces n join lane_sets s on s.namespace = n.name
     where s.generation = (select max(generation) from lane_sets where namespace = n.name)
    union all
    select namespace, generation, lanes, lane + 1 from each where lane + 1 < lanes)
  select namespace, generation, lane from each;

-- cluster: tells the nodes of this database from those of another one.
insert into counters (name, value) values ('cluster', abs(random() % 9007199254740991));

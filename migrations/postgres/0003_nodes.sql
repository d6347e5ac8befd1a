-- Who runs which lane. Its twin is migrations/sqlite/0003_nodes.sql.

-- The processes that share this database. A row that is gone never comes back under the same id: no row, no lease.
create table nodes (
  id text primary key,
  name text not null,
  data_dir text not null,
  hints text not null check (hints in ('memory', 'redis')),
  state text not null default 'live' check (state in ('live', 'leaving')),
  beat bigint not null default 0,
  config_seen bigint not null default 0,
  report text not null default '',
  started_at bigint not null
);

-- A lane is free exactly when its node is null or names no row of nodes. epoch: that of the newest take.
create table lanes (
  namespace text not null,
  generation bigint not null,
  lane bigint not null,
  node text,
  epoch bigint not null default 0,
  sealed_at bigint,
  primary key (namespace, generation, lane)
);

insert into lanes (namespace, generation, lane)
  with recursive each(namespace, generation, lanes, lane) as (
    select s.namespace, s.generation, s.lanes, cast(0 as bigint)
      from namespaces n join lane_sets s on s.namespace = n.name
     where s.generation = (select max(generation) from lane_sets where namespace = n.name)
    union all
    select namespace, generation, lanes, lane + 1 from each where lane + 1 < lanes)
  select namespace, generation, lane from each;

-- cluster: tells the nodes of this database from those of another one.
insert into counters (name, value) values ('cluster', cast(random() * 9007199254740991 as bigint));

-- The feed of a hook reads the events of all its streams in one order. Its twin is migrations/sqlite/0110_feed.sql.

-- place: rises with every event. It is drawn while the stream is locked, so it keeps the order of each stream. Places become visible
-- out of order: a reader goes no further than store/feed.rs says. A sequence is never rolled back, so a place is never given twice.
create sequence event_places;
alter table events add column place bigint;
update events e set place = o.place
  from (select v.stream, v.seq, nextval('event_places') as place
        from (select x.stream, x.seq from events x order by x.stream, x.seq) v) o
  where e.stream = o.stream and e.seq = o.seq;
alter table events alter column place set default nextval('event_places');
alter table events alter column place set not null;
alter sequence event_places owned by events.place;
create index events_by_place on events (place);

-- place: the highest one that retention has removed from the hook. cuts: the number of removals, so that a reader behind that place
-- can tell if something was removed since it began.
create table feed_floors (
  hook bigint primary key,
  place bigint not null,
  cuts bigint not null
);

drop function hooklane_prune;

-- Removes the events of streams from their floors up to p_to, where the floors are as they were seen and every cursor has passed
-- p_to. One call, so that no stream stays locked while a client is waited for.
create function hooklane_prune(
  p_hook bigint, p_handler bigint, p_fold bigint,                        -- handler, fold: the reducer that made the checkpoints
  p_stream bigint[], p_floor bigint[], p_to bigint[],                    -- in stream order
  p_label bigint[], p_state text[], p_chain bytea[])                     -- the checkpoints
returns table (stream bigint)                                            -- the streams whose floor was raised
language plpgsql volatile
set plan_cache_mode to force_generic_plan
set enable_seqscan to off
set enable_bitmapscan to off
set enable_hashjoin to off
set enable_mergejoin to off
set jit to off
as $$
#variable_conflict use_column
declare
  v_stream bigint[];
  v_ord bigint[];
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'hooklane_prune needs read committed';
  end if;
  if current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
    perform set_config('synchronous_commit', 'on', true);             -- holds until this transaction has committed
  end if;
  -- 1. who adds a handler, changes a reducer or begins a rebuild writes the row of the hook first: none does meanwhile
  perform 1 from hooks h where h.id = p_hook and h.deleted_at is null for share;
  if not found then
    return;
  end if;
  -- 2. new statements, hence new snapshots
  if exists (select 1 from rebuilds r where r.hook = p_hook and r.state = 'running')
     or exists (select 1 from handlers k where k.hook = p_hook and k.deleted_at is null and k.kind = 'reduce'
                  and (k.id is distinct from p_handler or k.fold is distinct from p_fold)) then
    return;
  end if;
  -- 3. lock the streams in id order
  perform 1
    from (select u.s from unnest(p_stream) as u (s) order by u.s) v
    cross join lateral (select x.floor from streams x where x.id = v.s for no key update) l;
  -- 4. of these, the ones that are as they were seen, and that every cursor has passed; positions only grow, and what is seen of
  -- them here is as durable as this transaction
  select array_agg(v.s), array_agg(v.o) into v_stream, v_ord
    from unnest(p_stream, p_floor, p_to) with ordinality as v (s, f, t, o)
    where exists (select 1 from streams x where x.id = v.s and x.hook = p_hook and x.floor = v.f and x.head >= v.t and v.t > v.f)
      and not exists (select 1 from handlers k left join cursors c on c.stream = v.s and c.handler = k.id
                       where k.hook = p_hook and coalesce(c.position, 0) < v.t
                         and (k.deleted_at is null or k.replay_stream = v.s and c.handler is not null));
  -- 5. what was not measured up to there is measured anew; whoever measures goes in id order too
  perform 1
    from (select u.s from unnest(v_stream) as u (s) order by u.s) v
    cross join lateral (select z.measured from sizes z where z.stream = v.s for no key update) l;
  delete from sizes z using unnest(v_stream, v_ord) as v (s, o) where z.stream = v.s and z.measured < p_to[v.o];
  with gone as (
    delete from events e using unnest(v_stream, v_ord) as v (s, o) where e.stream = v.s and e.seq <= p_to[v.o]
      returning e.stream, e.place, octet_length(e.body) + octet_length(e.headers) as bytes),
  cut as (
    insert into feed_floors (hook, place, cuts)
      select p_hook, max(g.place), 1 from gone g having max(g.place) is not null
      on conflict (hook) do update set place = greatest(feed_floors.place, excluded.place), cuts = feed_floors.cuts + 1),
  less as (select g.stream, sum(g.bytes)::bigint as bytes from gone g group by g.stream)
  update sizes z set bytes = z.bytes - l.bytes from less l where z.stream = l.stream;
  delete from dead_letters d using unnest(v_stream, v_ord) as v (s, o), handlers k
    where k.hook = p_hook and d.handler = k.id and d.stream = v.s and d.seq <= p_to[v.o];
  if p_handler is not null then
    insert into checkpoints (stream, handler, position, fold, state, chain)
      select v.s, p_handler, p_to[v.o], p_label[v.o], p_state[v.o], p_chain[v.o]
      from unnest(v_stream, v_ord) as v (s, o) order by v.s
      on conflict (stream, handler) do update set position = excluded.position, fold = excluded.fold,
        state = excluded.state, chain = excluded.chain;
  end if;
  update streams t set floor = p_to[v.o] from unnest(v_stream, v_ord) as v (s, o) where t.id = v.s;
  return query select v.s from unnest(v_stream) as v (s);
end $$;

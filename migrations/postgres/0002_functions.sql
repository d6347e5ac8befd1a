-- The hot path as two functions: storing a batch of events, moving a batch of cursors. One call each, so that no client is waited for
-- while rows are locked. Twin of migrations/sqlite/0002_functions.sql, which has none.
--
-- Every join below is written so that rows are found by an index from the side of the batch, whatever the statistics say: a plan made
-- while a table was empty must not read all of it later. Plans are made once a connection.

-- Half of each page is left for the next versions of its rows: a head or a position moves without touching an index.
alter table streams set (fillfactor = 50);
alter table cursors set (fillfactor = 50);

-- Bodies and states are compressed with what costs least, where the server has it.
do $$
begin
  alter table events alter column body set compression lz4, alter column headers set compression lz4;
  alter table cursors alter column state set compression lz4;
exception when feature_not_supported then
  null;
end $$;

create function hooklane_ingest(
  p_hook bigint[], p_ordering_key text[], p_slot bigint[], p_id bytea[], p_received_at bigint[],
  p_key_id bigint[], p_dedupe_key text[], p_headers text[], p_body bytea[], p_again boolean)
returns table (ord bigint, outcome text, stream bigint, seq bigint, slot bigint, id bytea, received_at bigint)
language plpgsql volatile
set plan_cache_mode to force_generic_plan
set enable_seqscan to off
set enable_bitmapscan to off
set enable_hashjoin to off
set enable_mergejoin to off
set enable_sort to off
set jit to off
as $$
#variable_conflict use_column
declare
  v_hooks bigint[];
  v_streams bigint[];
  v_missing boolean;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'hooklane_ingest needs read committed';
  end if;
  if current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
    perform set_config('synchronous_commit', 'on', true);             -- holds until this transaction has committed
  end if;
  v_hooks := array(select h.id from hooks h where h.id = any (p_hook) and h.deleted_at is null);
  for v_try in 1..2 loop
    -- 1. find the streams, and create those that are missing, in (hook, ordering_key) order, before any row lock is taken
    select array_agg(s.id), bool_or(s.id is null) into v_streams, v_missing
      from unnest(p_hook, p_ordering_key) as u (hook, okey)
      left join streams s on s.hook = u.hook and s.ordering_key = u.okey
      where u.hook = any (v_hooks);
    exit when v_missing is not true or v_try = 2;
    insert into streams (hook, ordering_key, slot, created_at)
      select b.hook, b.okey, min(b.slot), min(b.at)
      from (select u.hook, u.okey collate "C" as okey, u.slot, u.at
            from unnest(p_hook, p_ordering_key, p_slot, p_received_at) as u (hook, okey, slot, at)) b
      where b.hook = any (v_hooks)
        and not exists (select 1 from streams s where s.hook = b.hook and s.ordering_key = b.okey)
      group by b.hook, b.okey order by b.hook, b.okey
      on conflict (hook, ordering_key) do nothing;
  end loop;
  -- 2. lock every stream of the batch in id order (the rows are locked above the sort); v_streams is what we hold
  v_streams := array(select l.id from
    (select s.id from streams s where s.id = any (v_streams) order by s.id for no key update) l);
  -- 3. a new statement, hence a new snapshot, taken while the locks are held; it touches locked streams only
  return query
  with k as materialized (
    select u.o, u.at, u.dk, s.id as sid, s.row, s.slot, s.head,
           coalesce(d.seq, a.seq) as old_seq, coalesce(d.id, a.id) as old_id, coalesce(d.at, a.at) as old_at,
           case when u.dk is null then 1 else row_number() over (partition by s.id, u.dk order by u.o) end as nth
    from (select v.hook, v.okey, v.id, v.at, v.dk collate "C" as dk, v.o
          from unnest(p_hook, p_ordering_key, p_id, p_received_at, p_dedupe_key) with ordinality
               as v (hook, okey, id, at, dk, o)) u
    left join lateral (select x.id, x.ctid as row, x.slot, x.head from streams x
                        where x.hook = u.hook and x.ordering_key = u.okey limit 1) s on s.id = any (v_streams)
    -- spelled as a range, whose order only the index of dedupe keys has: any other would read the whole stream
    left join lateral (select e.seq, e.id, e.received_at as at from events e
                        where e.stream = s.id and e.dedupe_key >= u.dk and e.dedupe_key <= u.dk
                        order by e.dedupe_key limit 1) d on true
    left join lateral (select e.seq, e.id, e.received_at as at from events e where e.id = u.id limit 1) a on p_again),
  n as materialized (
    select k.*, k.sid is not null and k.old_seq is null and k.nth = 1 as fresh,
           k.head + count(*) filter (where k.sid is not null and k.old_seq is null and k.nth = 1)
                    over (partition by k.sid order by k.o rows unbounded preceding) as seq
    from k),
  i as (
    insert into events (stream, seq, id, received_at, key_id, dedupe_key, headers, body)
    select n.sid, n.seq, p_id[n.o], n.at, p_key_id[n.o], n.dk, p_headers[n.o], p_body[n.o]
    from n where n.fresh order by n.sid, n.seq),
  h as (
    update streams t set head = c.head
    from (select n.row, max(n.seq) as head from n where n.fresh group by n.row) c where t.ctid = c.row)
  select n.o, case when n.sid is null then 'gone' when n.fresh then 'new' else 'dup' end, n.sid,
         case when n.fresh then n.seq when n.old_seq is not null then n.old_seq else f.seq end, n.slot,
         case when n.fresh then null when n.old_seq is not null then n.old_id else p_id[f.o] end,
         case when n.fresh then null when n.old_seq is not null then n.old_at else f.at end
  from n left join lateral (
    select m.o, m.seq, m.at from n m
    where not n.fresh and n.old_seq is null and m.fresh and m.sid = n.sid and m.dk = n.dk limit 1) f on true;
end $$;

create function hooklane_advance(
  p_stream bigint[], p_handler bigint[], p_era bigint[], p_from bigint[], p_to bigint[], p_state text[], p_chain bytea[],
  p_condition text[], p_retry_at bigint[], p_tries bigint[], p_reason text[], p_at bigint[], p_operator boolean[],
  p_dead_stream bigint[], p_dead_handler bigint[], p_dead_seq bigint[], p_dead_reason text[], p_dead_at bigint[],
  p_durable boolean)
returns table (stream bigint, handler bigint)                         -- the cursors that moved
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
  v_handler bigint[];
  v_more_stream bigint[];
  v_more_handler bigint[];
begin
  if not p_durable then
    perform set_config('synchronous_commit', 'off', true);
  elsif current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  -- 1. the first advance of a cursor makes its row, in (stream, handler) order, before any row lock is taken
  with made as (
    insert into cursors (stream, handler, position, era, state, chain, condition, retry_at, tries, reason, updated_at)
      select v.s, v.h, v.t, v.e, p_state[v.o], p_chain[v.o], p_condition[v.o], p_retry_at[v.o], p_tries[v.o], p_reason[v.o],
             p_at[v.o]
      from unnest(p_stream, p_handler, p_era, p_from, p_to) with ordinality as v (s, h, e, f, t, o)
      where v.f = 0 and v.e = 1 and not exists (select 1 from cursors x where x.stream = v.s and x.handler = v.h)
      order by v.s, v.h
      on conflict (stream, handler) do nothing
      returning stream, handler)
  select array_agg(made.stream), array_agg(made.handler) into v_stream, v_handler from made;
  if coalesce(cardinality(v_stream), 0) < cardinality(p_stream) then
    -- 2. lock the rest in (stream, handler) order
    perform 1
      from (select u.s, u.h from unnest(p_stream, p_handler) as u (s, h) order by u.s, u.h) v
      cross join lateral (select c.era from cursors c where c.stream = v.s and c.handler = v.h for no key update) l;
    -- 3. compare and set; what step 1 made and set aside at 0 may match once more, and is the same then
    with moved as (
      update cursors c
        set position = v.t, state = p_state[v.o], chain = p_chain[v.o], condition = p_condition[v.o],
            retry_at = p_retry_at[v.o], tries = p_tries[v.o], reason = p_reason[v.o], updated_at = p_at[v.o]
        from unnest(p_stream, p_handler, p_era, p_from, p_to, p_operator) with ordinality as v (s, h, e, f, t, op, o)
        cross join lateral (select x.ctid as row from cursors x where x.stream = v.s and x.handler = v.h limit 1) r
        where c.ctid = r.row and c.era = v.e and c.position = v.f and (c.condition <> 'held' or v.op)
        returning c.stream, c.handler)
    select array_agg(moved.stream), array_agg(moved.handler) into v_more_stream, v_more_handler from moved;
    v_stream := v_stream || v_more_stream;
    v_handler := v_handler || v_more_handler;
  end if;
  -- 4. what those that moved have passed without applying it
  if cardinality(p_dead_seq) > 0 then
    insert into dead_letters (handler, stream, seq, reason, created_at)
      select d.h, d.s, d.q, d.r, d.at
      from unnest(p_dead_stream, p_dead_handler, p_dead_seq, p_dead_reason, p_dead_at) as d (s, h, q, r, at)
      where exists (select 1 from unnest(v_stream, v_handler) as m (s, h) where m.s = d.s and m.h = d.h)
      order by d.h, d.s, d.q;
  end if;
  return query select m.s, m.h from unnest(v_stream, v_handler) as m (s, h);
end $$;

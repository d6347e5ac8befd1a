-- The two calls of the hot path again, with fewer statements in each: what a statement costs to begin is more than a row of it costs.
-- Rows are locked by the statement that finds them, and then changed at the place where they were locked. Each call answers with
-- one row of arrays.

drop function hooklane_append;
drop function hooklane_advance;

-- The common case of storing a batch, where every stream is there and no event is a repeat. In any other case nothing is stored and
-- the answer is null: then hooklane_ingest is called.
create function hooklane_append(
  p_hook bigint[], p_ordering_key text[], p_count bigint[],              -- a row a stream
  p_stream bigint[], p_nth bigint[], p_id bytea[], p_received_at bigint[], p_key_id bigint[], p_dedupe_key text[], p_headers text[],
  p_body bytea[], p_keyed boolean,                                       -- a row an event; keyed: some have a dedupe key
  out r_stream bigint[], out r_slot bigint[], out r_head bigint[])       -- a row a stream: its head before
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
  v_row tid[];
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'hooklane_append needs read committed';
  end if;
  if current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
    perform set_config('synchronous_commit', 'on', true);             -- holds until this transaction has committed
  end if;
  -- 1. find the streams and lock them in id order, one after the other; a row that was waited for is read as it is now
  select array_agg(l.id), array_agg(l.slot), array_agg(l.head), array_agg(l.row) into r_stream, r_slot, r_head, v_row
    from (select f.o, s.id, s.slot, s.head, s.row
          from (select x.id, u.o from unnest(p_hook, p_ordering_key) with ordinality as u (hook, okey, o)
                cross join lateral (select h.id from hooks h where h.id = u.hook and h.deleted_at is null limit 1) k
                cross join lateral (select s.id from streams s where s.hook = k.id and s.ordering_key = u.okey limit 1) x
                order by x.id) f
          cross join lateral (select s.id, s.slot, s.head, s.ctid as row from streams s where s.id = f.id for no key update) s
          order by f.o) l;
  if coalesce(cardinality(r_stream), 0) < cardinality(p_hook) then
    r_stream := null;
    return;
  end if;
  -- 2. new statements, hence new snapshots, taken while the locks are held
  if p_keyed then
    -- spelled as a range, whose order only the index of dedupe keys has: any other would read the whole stream
    perform 1 from unnest(p_stream, p_dedupe_key) as u (s, dk)
      cross join lateral (select 1 from events e
                           where e.stream = r_stream[u.s] and e.dedupe_key >= u.dk and e.dedupe_key <= u.dk
                           order by e.dedupe_key limit 1) d
      limit 1;
    if found then
      r_stream := null;
      return;
    end if;
  end if;
  insert into events (stream, seq, id, received_at, key_id, dedupe_key, headers, body)
    select r_stream[u.s], r_head[u.s] + u.nth, u.id, u.at, u.kid, u.dk, u.hd, u.body
    from unnest(p_stream, p_nth, p_id, p_received_at, p_key_id, p_dedupe_key, p_headers, p_body)
         as u (s, nth, id, at, kid, dk, hd, body);
  update streams t set head = v.head + v.count
    from unnest(v_row, r_head, p_count) as v (row, head, count) where t.ctid = v.row;
end $$;

create function hooklane_advance(
  p_stream bigint[], p_handler bigint[], p_era bigint[], p_from bigint[], p_to bigint[], p_state text[], p_chain bytea[],
  p_condition text[], p_retry_at bigint[], p_tries bigint[], p_reason text[], p_at bigint[], p_operator boolean[],
  p_dead_stream bigint[], p_dead_handler bigint[], p_dead_seq bigint[], p_dead_reason text[], p_dead_at bigint[],
  p_durable boolean,
  out r_stream bigint[], out r_handler bigint[])                         -- the cursors that moved
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
  v_row tid[];
  v_ord bigint[];
  v_stream bigint[];
  v_handler bigint[];
begin
  if not p_durable then
    perform set_config('synchronous_commit', 'off', true);
  elsif current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  -- 1. the first advance of a cursor makes its row, in (stream, handler) order, before any row lock is taken
  if 0 = any (p_from) then
    with made as (
      insert into cursors (stream, handler, position, era, state, chain, condition, retry_at, tries, reason, updated_at)
        select v.s, v.h, v.t, v.e, p_state[v.o], p_chain[v.o], p_condition[v.o], p_retry_at[v.o], p_tries[v.o], p_reason[v.o],
               p_at[v.o]
        from unnest(p_stream, p_handler, p_era, p_from, p_to) with ordinality as v (s, h, e, f, t, o)
        where v.f = 0 and v.e = 1 and not exists (select 1 from cursors x where x.stream = v.s and x.handler = v.h)
        order by v.s, v.h
        on conflict (stream, handler) do nothing
        returning stream, handler)
    select array_agg(made.stream), array_agg(made.handler) into r_stream, r_handler from made;
  end if;
  if coalesce(cardinality(r_stream), 0) < cardinality(p_stream) then
    -- 2. lock the rest in (stream, handler) order, and compare; what step 1 made and set aside at 0 may match once more, and is the
    --    same then
    select array_agg(l.row), array_agg(v.o), array_agg(v.s), array_agg(v.h) into v_row, v_ord, v_stream, v_handler
      from (select u.s, u.h, u.e, u.f, u.op, u.o
            from unnest(p_stream, p_handler, p_era, p_from, p_operator) with ordinality as u (s, h, e, f, op, o)
            order by u.s, u.h) v
      cross join lateral (select c.ctid as row, c.era, c.position, c.condition from cursors c
                           where c.stream = v.s and c.handler = v.h for no key update) l
      where l.era = v.e and l.position = v.f and (l.condition <> 'held' or v.op);
    -- 3. set
    update cursors c
      set position = p_to[v.o], state = p_state[v.o], chain = p_chain[v.o], condition = p_condition[v.o],
          retry_at = p_retry_at[v.o], tries = p_tries[v.o], reason = p_reason[v.o], updated_at = p_at[v.o]
      from unnest(v_row, v_ord) as v (row, o) where c.ctid = v.row;
    r_stream := r_stream || v_stream;
    r_handler := r_handler || v_handler;
  end if;
  -- 4. what those that moved have passed without applying it
  if cardinality(p_dead_seq) > 0 then
    insert into dead_letters (handler, stream, seq, reason, created_at)
      select d.h, d.s, d.q, d.r, d.at
      from unnest(p_dead_stream, p_dead_handler, p_dead_seq, p_dead_reason, p_dead_at) as d (s, h, q, r, at)
      where exists (select 1 from unnest(r_stream, r_handler) as m (s, h) where m.s = d.s and m.h = d.h)
      order by d.h, d.s, d.q;
  end if;
end $$;

-- Streams that operators have erased and whose data is still being removed. Its twin is migrations/sqlite/0105_erasures.sql.

-- A row is written in the transaction that deletes the stream, and goes when no byte of its data is left. It says nothing about the
-- stream but its number. stream: null if all of its events were held back. node: the node that removes the data.
create table erasures (
  id bigint generated always as identity primary key,
  stream bigint,
  node text not null,
  asked_at bigint not null
);

-- The statistics of the planner are samples of the values of columns. No plan depends on these, and a sample would outlive its row.
alter table events alter column headers set statistics 0;
alter table events alter column body set statistics 0;
alter table waiting alter column headers set statistics 0;
alter table waiting alter column body set statistics 0;
alter table cursors alter column state set statistics 0;
alter table cursors alter column reason set statistics 0;
alter table checkpoints alter column state set statistics 0;
alter table shadows alter column state set statistics 0;
alter table dead_letters alter column reason set statistics 0;

-- As before, except that a turn which was under way while its stream was erased makes no cursor.
drop function hooklane_advance;

create function hooklane_advance(
  p_stream bigint[], p_handler bigint[], p_era bigint[], p_from bigint[], p_to bigint[], p_state text[], p_chain bytea[],
  p_condition text[], p_retry_at bigint[], p_tries bigint[], p_reason text[], p_held_by text[], p_at bigint[],
  p_operator boolean[],
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
      insert into cursors (stream, handler, position, era, state, chain, condition, retry_at, tries, reason, held_by, updated_at)
        select v.s, v.h, v.t, v.e, p_state[v.o], p_chain[v.o], p_condition[v.o], p_retry_at[v.o], p_tries[v.o], p_reason[v.o],
               p_held_by[v.o], p_at[v.o]
        from unnest(p_stream, p_handler, p_era, p_from, p_to) with ordinality as v (s, h, e, f, t, o)
        where v.f = 0 and v.e = 1 and not exists (select 1 from cursors x where x.stream = v.s and x.handler = v.h)
          and exists (select 1 from streams g where g.id = v.s)
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
          retry_at = p_retry_at[v.o], tries = p_tries[v.o], reason = p_reason[v.o], held_by = p_held_by[v.o],
          updated_at = p_at[v.o]
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

-- Each event carries a checksum, which is compared with what is read. Its twin is migrations/sqlite/0045_checksums.sql.

-- CRC-32 of id, time, headers and body (domain/event.rs); null where the event was stored before there were checksums.
alter table events add column checksum bigint;

-- The two calls that store, with the checksums.
drop function hooklane_append;
drop function hooklane_ingest;

-- The common case of storing a batch, where every stream is there and no event is a repeat. In any other case nothing is stored and
-- the answer is null: then hooklane_ingest is called.
create function hooklane_append(
  p_hook bigint[], p_ordering_key text[], p_count bigint[],              -- a row a stream
  p_stream bigint[], p_nth bigint[], p_id bytea[], p_received_at bigint[], p_key_id bigint[], p_dedupe_key text[], p_headers text[],
  p_body bytea[], p_checksum bigint[], p_keyed boolean,                  -- a row an event; keyed: some have a dedupe key
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
  insert into events (stream, seq, id, received_at, key_id, dedupe_key, headers, body, checksum)
    select r_stream[u.s], r_head[u.s] + u.nth, u.id, u.at, u.kid, u.dk, u.hd, u.body, u.sum
    from unnest(p_stream, p_nth, p_id, p_received_at, p_key_id, p_dedupe_key, p_headers, p_body,
                p_checksum) as u (s, nth, id, at, kid, dk, hd, body, sum);
  update streams t set head = v.head + v.count
    from unnest(v_row, r_head, p_count) as v (row, head, count) where t.ctid = v.row;
end $$;

-- Any other case of storing a batch: streams may be missing, events may be repeats.
create function hooklane_ingest(
  p_hook bigint[], p_ordering_key text[], p_slot bigint[], p_id bytea[], p_received_at bigint[],
  p_key_id bigint[], p_dedupe_key text[], p_headers text[], p_body bytea[], p_checksum bigint[], p_again boolean)
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
    insert into events (stream, seq, id, received_at, key_id, dedupe_key, headers, body, checksum)
    select n.sid, n.seq, p_id[n.o], n.at, p_key_id[n.o], n.dk, p_headers[n.o], p_body[n.o], p_checksum[n.o]
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

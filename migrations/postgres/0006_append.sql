-- The common case of storing a batch, where every stream is there and no event is a repeat, costs a third of the general one: streams
-- are looked for once however many events they get, heads are read by the statement that locks them, and the batch says the place of
-- each event among those of its stream. In any other case nothing is stored and no row is returned: then hooklane_ingest is called.

create function hooklane_append(
  p_hook bigint[], p_ordering_key text[], p_count bigint[],              -- a row a stream
  p_stream bigint[], p_nth bigint[], p_id bytea[], p_received_at bigint[], p_key_id bigint[], p_dedupe_key text[], p_headers text[],
  p_body bytea[], p_keyed boolean)                                       -- a row an event; keyed: some have a dedupe key
returns table (ord bigint, stream bigint, slot bigint, head bigint)      -- the streams, and their heads before
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
  v_found bigint[];
  v_ord bigint[];
  v_id bigint[];
  v_slot bigint[];
  v_head bigint[];
  v_place bigint[];
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'hooklane_append needs read committed';
  end if;
  if current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
    perform set_config('synchronous_commit', 'on', true);             -- holds until this transaction has committed
  end if;
  -- 1. find the streams, in id order
  select array_agg(f.id), array_agg(f.o) into v_found, v_ord
    from (select s.id, u.o from unnest(p_hook, p_ordering_key) with ordinality as u (hook, okey, o)
          cross join lateral (select h.id from hooks h where h.id = u.hook and h.deleted_at is null limit 1) k
          cross join lateral (select x.id from streams x where x.hook = k.id and x.ordering_key = u.okey limit 1) s
          order by s.id) f;
  if coalesce(cardinality(v_found), 0) < cardinality(p_hook) then
    return;
  end if;
  -- 2. lock them in that order (the rows are locked above the sort); a row that was waited for is read as it is now
  select array_agg(l.id), array_agg(l.slot), array_agg(l.head) into v_id, v_slot, v_head
    from (select s.id, s.slot, s.head from streams s where s.id = any (v_found) order by s.id for no key update) l;
  if v_id is distinct from v_found then
    return;
  end if;
  v_place := array(select u.i from unnest(v_ord) with ordinality as u (o, i) order by u.o);
  -- 3. new statements, hence new snapshots, taken while the locks are held
  if p_keyed then
    -- spelled as a range, whose order only the index of dedupe keys has: any other would read the whole stream
    perform 1 from unnest(p_stream, p_dedupe_key) as u (s, dk)
      cross join lateral (select 1 from events e
                           where e.stream = v_id[v_place[u.s]] and e.dedupe_key >= u.dk and e.dedupe_key <= u.dk
                           order by e.dedupe_key limit 1) d
      limit 1;
    if found then
      return;
    end if;
  end if;
  insert into events (stream, seq, id, received_at, key_id, dedupe_key, headers, body)
    select v_id[v_place[u.s]], v_head[v_place[u.s]] + u.nth, u.id, u.at, u.kid, u.dk, u.hd, u.body
    from unnest(p_stream, p_nth, p_id, p_received_at, p_key_id, p_dedupe_key, p_headers, p_body)
         as u (s, nth, id, at, kid, dk, hd, body);
  update streams t set head = v.head + p_count[v.o]
    from unnest(v_id, v_head, v_ord) as v (id, head, o)
    cross join lateral (select x.ctid as row from streams x where x.id = v.id limit 1) r
    where t.ctid = r.row;
  return query select v.o, v.id, v.slot, v.head from unnest(v_ord, v_id, v_slot, v_head) as v (o, id, slot, head);
end $$;

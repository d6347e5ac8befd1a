-- The provider's order. Its twin is migrations/sqlite/0090_versions.sql.

-- version_by: the place of the version in an event, written as in order_by; null where events are ordered by arrival alone.
-- version_rule: rises when the place changes, since versions at two places cannot be compared. late: the treatment of late events.
-- reorder_ms: the time for which an event is held back; null for none.
alter table hooks add column version_by text;
alter table hooks add column version_rule bigint not null default 0;
alter table hooks add column late text not null default 'mark';
alter table hooks add column reorder_ms bigint;

-- version: the highest one that the stream has, written as domain/version.rs does. late: the number of its late events.
alter table streams add column version text collate "C";
alter table streams add column late bigint not null default 0;

-- The treatment of the event if it is late: apply, mark or skip. Decided once, together with the seq.
alter table events add column late text;

-- Events that are held back for a reorder window. They are durable and acknowledged, but have no seq: they get one when they are
-- released, in the order of their versions. An event without a version has an empty one.
create table waiting (
  n bigint generated always as identity,
  hook bigint not null,
  ordering_key text collate "C" not null,
  slot bigint not null,
  id bytea primary key,
  received_at bigint not null,
  key_id bigint,
  dedupe_key text collate "C",
  headers text not null,
  body bytea not null,
  checksum bigint not null,
  version text collate "C" not null,
  late text not null,
  due_at bigint not null
);
create unique index waiting_dedupe on waiting (hook, ordering_key, dedupe_key) where dedupe_key is not null;
create index waiting_order on waiting (hook, ordering_key, version, received_at, n);
create index waiting_due on waiting (due_at);

-- Events with a version always go through this call, which compares it with those before it.
drop function hooklane_ingest;

create function hooklane_ingest(
  p_hook bigint[], p_ordering_key text[], p_slot bigint[], p_id bytea[], p_received_at bigint[],
  p_key_id bigint[], p_dedupe_key text[], p_headers text[], p_body bytea[], p_checksum bigint[], p_version text[], p_late text[],
  p_again boolean)
returns table (ord bigint, outcome text, stream bigint, seq bigint, slot bigint, id bytea, received_at bigint, late text)
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
    select u.o, u.at, u.dk, u.version, s.id as sid, s.row, s.slot, s.head, s.version as highest,
           coalesce(d.seq, a.seq) as old_seq, coalesce(d.id, a.id) as old_id, coalesce(d.at, a.at) as old_at,
           case when u.dk is null then 1 else row_number() over (partition by s.id, u.dk order by u.o) end as nth
    from (select v.hook, v.okey, v.id, v.at, v.dk collate "C" as dk, v.version collate "C" as version, v.o
          from unnest(p_hook, p_ordering_key, p_id, p_received_at, p_dedupe_key, p_version) with ordinality
               as v (hook, okey, id, at, dk, version, o)) u
    left join lateral (select x.id, x.ctid as row, x.slot, x.head, x.version from streams x
                        where x.hook = u.hook and x.ordering_key = u.okey limit 1) s on s.id = any (v_streams)
    -- spelled as a range, whose order only the index of dedupe keys has: any other would read the whole stream
    left join lateral (select e.seq, e.id, e.received_at as at from events e
                        where e.stream = s.id and e.dedupe_key >= u.dk and e.dedupe_key <= u.dk
                        order by e.dedupe_key limit 1) d on true
    left join lateral (select e.seq, e.id, e.received_at as at from events e where e.id = u.id limit 1) a on p_again),
  n as materialized (
    select k.*, k.sid is not null and k.old_seq is null and k.nth = 1 as fresh,
           k.head + count(*) filter (where k.sid is not null and k.old_seq is null and k.nth = 1)
                    over (partition by k.sid order by k.o rows unbounded preceding) as seq,
           greatest(k.highest, max(k.version) filter (where k.sid is not null and k.old_seq is null and k.nth = 1)
                    over (partition by k.sid order by k.o rows between unbounded preceding and 1 preceding)) as before
    from k),
  -- an event is late if its version is lower than one before it; versions of two rules, whose number is in front, do not compare
  l as materialized (
    select n.*, case when n.fresh and n.version < n.before and left(n.version, 8) = left(n.before, 8) then p_late[n.o] end as late
    from n),
  i as (
    insert into events (stream, seq, id, received_at, key_id, dedupe_key, headers, body, checksum, late)
    select l.sid, l.seq, p_id[l.o], l.at, p_key_id[l.o], l.dk, p_headers[l.o], p_body[l.o], p_checksum[l.o], l.late
    from l where l.fresh order by l.sid, l.seq),
  h as (
    update streams t set head = c.head, version = greatest(t.version, c.version), late = t.late + c.late
    from (select l.row, max(l.seq) as head, max(l.version) as version, count(l.late) as late
          from l where l.fresh group by l.row) c where t.ctid = c.row)
  select l.o, case when l.sid is null then 'gone' when l.fresh then 'new' else 'dup' end, l.sid,
         case when l.fresh then l.seq when l.old_seq is not null then l.old_seq else f.seq end, l.slot,
         case when l.fresh then null when l.old_seq is not null then l.old_id else p_id[f.o] end,
         case when l.fresh then null when l.old_seq is not null then l.old_at else f.at end, l.late
  from l left join lateral (
    select m.o, m.seq, m.at from l m
    where not l.fresh and l.old_seq is null and m.fresh and m.sid = l.sid and m.dk = l.dk limit 1) f on true;
end $$;

-- Holds events back. The row of a waiting event is inserted first and its dedupe key is then looked up among the stored events: a
-- release stores an event before it removes the row, in one transaction, so one of the two is always seen.
create function hooklane_wait(
  p_hook bigint[], p_ordering_key text[], p_slot bigint[], p_id bytea[], p_received_at bigint[],
  p_key_id bigint[], p_dedupe_key text[], p_headers text[], p_body bytea[], p_checksum bigint[], p_version text[], p_late text[],
  p_due_at bigint[], p_again boolean)                                    -- again: they may have been held back before
returns table (ord bigint, outcome text, id bytea, seq bigint, received_at bigint)
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
  v_new bytea[];
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'hooklane_wait needs read committed';
  end if;
  if current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
    perform set_config('synchronous_commit', 'on', true);             -- holds until this transaction has committed
  end if;
  -- 1. in the order of the unique index, so that two calls never wait for each other in a circle
  with made as (
    insert into waiting (hook, ordering_key, slot, id, received_at, key_id, dedupe_key, headers, body, checksum, version, late, due_at)
      select u.hook, u.okey, u.slot, u.id, u.at, u.kid, u.dk, p_headers[u.o], p_body[u.o], p_checksum[u.o], u.version, p_late[u.o],
             p_due_at[u.o]
      from unnest(p_hook, p_ordering_key, p_slot, p_id, p_received_at, p_key_id, p_dedupe_key, p_version) with ordinality
           as u (hook, okey, slot, id, at, kid, dk, version, o)
      where exists (select 1 from hooks h where h.id = u.hook and h.deleted_at is null)
        and not (p_again and exists (select 1 from events e where e.id = u.id))
      order by u.hook, u.okey collate "C", u.dk collate "C", u.o
      on conflict do nothing
      returning id)
  select array_agg(made.id) into v_new from made;
  -- 2. a new statement, hence a new snapshot
  return query
  with k as materialized (
    select u.o, u.id, coalesce(u.id = any (v_new), false) as fresh, d.id as old_id, d.seq as old_seq, d.received_at as old_at,
           w.id as held_id, w.received_at as held_at, a.id as own_id
    from unnest(p_hook, p_ordering_key, p_id, p_dedupe_key) with ordinality as u (hook, okey, id, dk, o)
    left join lateral (select e.id, e.seq, e.received_at from streams s
                        cross join lateral (select x.id, x.seq, x.received_at from events x
                                             where x.stream = s.id and x.dedupe_key >= u.dk and x.dedupe_key <= u.dk
                                             order by x.dedupe_key limit 1) e
                        where s.hook = u.hook and s.ordering_key = u.okey limit 1) d on true
    left join lateral (select x.id, x.received_at from waiting x
                        where x.hook = u.hook and x.ordering_key = u.okey and x.dedupe_key = u.dk and x.id <> u.id limit 1) w on true
    left join lateral (select x.id from waiting x where x.id = u.id
                       union all select x.id from events x where p_again and x.id = u.id limit 1) a on true),
  x as (
    delete from waiting t using k where t.id = k.id and k.fresh and k.old_id <> k.id)
  select k.o, case when k.old_id <> k.id or k.old_id is null and k.held_id is not null then 'dup'
                   when k.own_id is not null then 'wait' else 'gone' end,
         coalesce(k.old_id, k.held_id), k.old_seq, coalesce(k.old_at, k.held_at)
  from k;
end $$;

-- Stores waiting events whose window has ended, and in each of their streams those with lower versions before them. One call at a
-- time works: another would find the same events, wait for it and store nothing.
create function hooklane_release(p_now bigint, p_far bigint, p_events bigint, p_bytes bigint)
returns table (hook bigint, stream bigint, seq bigint, slot bigint, received_at bigint, late text)
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
  v_n bigint[];
  v_hook bigint[];
  v_key text[];
  v_slot bigint[];
  v_id bytea[];
  v_at bigint[];
  v_kid bigint[];
  v_dk text[];
  v_headers text[];
  v_body bytea[];
  v_sum bigint[];
  v_version text[];
  v_late text[];
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'hooklane_release needs read committed';
  end if;
  if current_setting('synchronous_commit') in ('off', 'local', 'remote_write') then
    perform set_config('synchronous_commit', 'on', true);             -- holds until this transaction has committed
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended('hooklane_release ' || current_schema(), 0)) then
    return;
  end if;
  -- 1. an event whose window ends after p_far was received by a clock that was set back since; it is due
  select array_agg(c.n), array_agg(c.hook), array_agg(c.ordering_key), array_agg(c.slot), array_agg(c.id), array_agg(c.received_at),
         array_agg(c.key_id), array_agg(c.dedupe_key), array_agg(c.headers), array_agg(c.body), array_agg(c.checksum),
         array_agg(nullif(c.version, '')), array_agg(c.late)
    into v_n, v_hook, v_key, v_slot, v_id, v_at, v_kid, v_dk, v_headers, v_body, v_sum, v_version, v_late
    from (select b.* from
            (select w.*, row_number() over o as nth, sum(length(w.body) + length(w.headers)) over o as bytes
             from (select d.hook, d.ordering_key, max(d.version) as version from waiting d
                    where d.due_at <= p_now or d.due_at > p_far group by d.hook, d.ordering_key) q
             join waiting w on w.hook = q.hook and w.ordering_key = q.ordering_key and w.version <= q.version
             window o as (order by w.hook, w.ordering_key, w.version, w.received_at, w.n)) b
          where b.nth = 1 or b.nth <= p_events and b.bytes <= p_bytes
          order by b.nth) c;
  if v_n is null then
    return;
  end if;
  -- 2. store them, and remove them unless their stream was purged meanwhile and is made anew
  return query
  with r as materialized (
    select * from hooklane_ingest(v_hook, v_key, v_slot, v_id, v_at, v_kid, v_dk, v_headers, v_body, v_sum, v_version, v_late, true)),
  x as (
    delete from waiting w using r
    where w.n = v_n[r.ord]
      and (r.outcome <> 'gone' or not exists (select 1 from hooks h where h.id = w.hook and h.deleted_at is null)))
  select v_hook[r.ord], r.stream, r.seq, r.slot, v_at[r.ord], r.late from r where r.outcome = 'new' order by r.ord;
end $$;

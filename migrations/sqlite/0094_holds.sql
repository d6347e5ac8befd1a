-- The cause of a hold, apart from its reason. Its twin is migrations/postgres/0094_holds.sql.

-- held_by: failure or operator where condition is held; null elsewhere. Before, the reason of an operator's hold began with 'held by '.
alter table cursors add column held_by text check (held_by in ('failure', 'operator'));
update cursors set held_by = case when substr(reason, 1, 8) = 'held by ' then 'operator' else 'failure' end
  where condition = 'held';

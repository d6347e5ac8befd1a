-- Hooks that operators pause. Its twin is migrations/sqlite/0012_pauses.sql.

-- When its change of namespace began: its cursors take no turns until that has ended. paused_*: an operator's wish.
alter table hooks add column moves_at bigint;
update hooks set moves_at = paused_at, paused_at = null, paused_by = null, paused_reason = null
 where paused_by = 'hooks edit';

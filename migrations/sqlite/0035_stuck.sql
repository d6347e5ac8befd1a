-- Hooks of which events do not end. Its twin is migrations/postgres/0035_stuck.sql.

-- When an event of it did not end last. A second one within a minute pauses the hook.
alter table hooks add column stuck_at integer;

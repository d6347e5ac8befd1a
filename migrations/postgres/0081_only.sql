-- Filters of handlers. Its twin is migrations/sqlite/0081_only.sql.

-- Patterns of the events that the handler takes, as a JSON list; null where it takes all.
alter table handlers add column only_events text;

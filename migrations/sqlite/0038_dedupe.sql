-- How a hook knows a repeat of an event. Its twin is migrations/postgres/0038_dedupe.sql.

-- standard: by the headers Idempotency-Key and webhook-id; else the place of a key, written as in order_by.
alter table hooks add column dedupe_by text not null default 'standard';

-- Senders of a hook by address. Its twin is migrations/sqlite/0091_allow_from.sql.

-- allow_from: the ranges of addresses from which requests are accepted, with spaces between them; null for all.
alter table hooks add column allow_from text;

-- Handshakes of senders. Its twin is migrations/postgres/0075_handshake.sql.

-- handshake: the test of the URL that a hook answers, such as meta; null where it answers none.
alter table hooks add column handshake text;

-- Streams of a hook a page at a time, in the order of their numbers. Its twin is migrations/postgres/0020_pages.sql.

create index streams_by_hook on streams (hook, id);

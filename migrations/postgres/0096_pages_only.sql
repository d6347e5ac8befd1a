-- The index of pages serves pages only. While most hooks have one stream, a hook alone looks unique to the planner, which then
-- looks streams up by (hook, id) and filters the ordering key: each event of a hook with many streams reads all of them. A lookup
-- by ordering key does not say id > 0, so this index is none for it.

drop index streams_by_hook;
create index streams_by_hook on streams (hook, id) where id > 0;

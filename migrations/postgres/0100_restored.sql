-- A restore from a backup, in milliseconds since 1970; 0 if there was none. Its twin is migrations/sqlite/0100_restored.sql.

-- restored_from: the time of the backup. restored_at: the time of the restore. Written by hooklane restore.
insert into counters (name, value) values ('restored_from', 0), ('restored_at', 0);

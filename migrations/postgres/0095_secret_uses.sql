-- Uses of the secrets that verify senders. Its twin is migrations/sqlite/0095_secret_uses.sql.

-- One row for each secret that has verified a request. secret: the id of the secret. first_at and last_at: the times of the first
-- and the latest request; nodes write them once a minute at most.
create table secret_uses (
  hook bigint not null,
  secret text not null,
  first_at bigint not null,
  last_at bigint not null,
  primary key (hook, secret)
);

-- The ordering key of an event that was lost while it was held back; stream and seq are 0 then, since it had none.
alter table lost_events add column ordering_key text collate "C";

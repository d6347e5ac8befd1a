-- Alerts that stand, for each receiver. Its twin is migrations/postgres/0092_alerts.sql.

-- stage: 1 the begin is to be posted, 2 it stands, 3 the end is to be posted. A node claims a post by raising tries and moving
-- due_at: no other node posts it before then. The row goes when the end is posted. content is what the begin said, as JSON.
create table alerts (
    receiver text not null,
    finding text not null,
    id text not null,
    content text not null,
    stage integer not null check (stage in (1, 2, 3)),
    tries integer not null,
    due_at integer not null,
    began_at integer not null,
    ended_at integer,
    primary key (receiver, finding)
) strict, without rowid;

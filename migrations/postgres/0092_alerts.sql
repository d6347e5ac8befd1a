-- Alerts that stand, for each receiver. Its twin is migrations/sqlite/0092_alerts.sql.

-- stage: 1 the begin is to be posted, 2 it stands, 3 the end is to be posted. A node claims a post by raising tries and moving
-- due_at: no other node posts it before then. The row goes when the end is posted. content is what the begin said, as JSON.
create table alerts (
    receiver text not null,
    finding text not null,
    id text not null,
    content text not null,
    stage bigint not null check (stage in (1, 2, 3)),
    tries bigint not null,
    due_at bigint not null,
    began_at bigint not null,
    ended_at bigint,
    primary key (receiver, finding)
);

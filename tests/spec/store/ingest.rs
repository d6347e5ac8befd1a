//! Five writers that contend for the same rows of a Postgres server: what the order of locks is for, and
//! what becomes of it without that order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tokio::task::JoinSet;

use hooklane::domain::event::EventId;
use hooklane::domain::hook::HookId;
use hooklane::domain::lane::Slot;
use hooklane::domain::name::OrderingKey;
use hooklane::domain::time::Timestamp;
use hooklane::engine;
use hooklane::metrics::Metrics;
use hooklane::store::{Error, NewEvent, Store};

use crate::home::{Home, On};

const WRITERS: usize = 5;

/// Batches that are enough to see that all is well.
const BATCHES: u64 = 2_000;

/// Time limit of the writers.
const TIME_MAX: Duration = Duration::from_secs(40);

/// Twelve events in no order, over streams that are hot and streams that all writers make at the same
/// moment; a quarter carry a dedupe key of a small range.
const BATCH: &str = "select count(*) from (
  select array_agg((1 + floor(random() * 4))::bigint) as hook,
    array_agg(case when random() < 0.4 then 'hot' || floor(random() * 5)
      else 'k' || floor(extract(epoch from clock_timestamp()) * 20)::bigint || '-' || floor(random() * 8)
      end) as okey,
    array_agg(floor(random() * 65536)::bigint) as slot,
    array_agg(uuid_send(gen_random_uuid())) as id,
    array_agg(0::bigint) as at, array_agg(null::bigint) as kid,
    array_agg(case when random() < 0.25 then 'd' || floor(random() * 200) end) as dk,
    array_agg('{}'::text) as hd, array_agg('x'::bytea) as body,
    array_agg(null::bigint) as sum,
    array_agg(case when random() < 0.5 then '00000000' || lpad(floor(random() * 1000)::text, 28, '0') end) as version,
    array_agg('mark'::text) as late
  from generate_series(1, 12)) b,
  lateral hooklane_ingest(b.hook, b.okey, b.slot, b.id, b.at, b.kid, b.dk, b.hd, b.body, b.sum, b.version,
    b.late, false)";

/// Streams whose events are not exactly 1 to their head, in one snapshot.
const HOLES: &str = "select count(*) from (
  select s.head, count(e.seq) as events, coalesce(max(e.seq), 0) as last
  from streams s left join events e on e.stream = s.id group by s.id, s.head) x
  where head <> events or head <> last";

struct Load {
    options: PgConnectOptions,
    /// Text of the function, and its replacement.
    breaks: Option<(&'static str, &'static str)>,
    _home: Home,
}

#[derive(Default)]
struct Seen {
    batches: AtomicU64,
    deadlocks: AtomicU64,
    holes: AtomicU64,
    looks: AtomicU64,
}

impl Seen {
    fn now(&self) -> [u64; 4] {
        [&self.batches, &self.deadlocks, &self.holes, &self.looks].map(|n| n.load(Relaxed))
    }
}

impl Load {
    async fn new() -> Self {
        let home = Home::new(On::Postgres);
        home.open().await.unwrap().close().await;
        let Home::Server(name) = &home else {
            unreachable!("a server was asked for");
        };
        let url = crate::postgres::shared().url("postgres", name);
        let options: PgConnectOptions = url.parse().unwrap();
        let load = Self {
            options,
            breaks: None,
            _home: home,
        };
        load.run(
            "insert into hooks (namespace, name, order_by, unordered, body_max, created_at)
             select 'default', 'h' || n, '', 'keep', 1000, 0 from generate_series(1, 4) n",
        )
        .await;
        load
    }

    async fn run(&self, statement: &str) {
        let mut db = PgConnection::connect_with(&self.options).await.unwrap();
        let statement = AssertSqlSafe(statement.to_owned());
        sqlx::raw_sql(statement).execute(&mut db).await.unwrap();
    }

    /// Puts another text in the place of one that stands in one of the two functions that store.
    async fn break_ingest(&self, right: &str, wrong: &str) {
        let append = include_str!("../../../migrations/postgres/0045_checksums.sql");
        let ingest = include_str!("../../../migrations/postgres/0090_versions.sql");
        let functions =
            [("hooklane_append", append), ("hooklane_ingest", ingest)].map(|(name, all)| {
                let begin = all.find(&format!("create function {name}(")).unwrap();
                let end = begin + all[begin..].find("end $$;").unwrap() + "end $$;".len();
                &all[begin..end]
            });
        let mut found = functions.iter().filter(|function| function.contains(right));
        let function = found.next().expect(right);
        assert!(found.next().is_none() && function.matches(right).count() == 1);
        let broken = function
            .replace("create function", "create or replace function")
            .replace(right, wrong);
        self.run(&broken).await;
    }

    async fn break_now(&self) {
        if let Some((right, wrong)) = self.breaks {
            self.break_ingest(right, wrong).await;
        }
    }

    /// Writes until `enough` of what was seen: batches, deadlocks, holes, looks for holes.
    async fn write(&self, enough: impl Fn([u64; 4]) -> bool) -> [u64; 4] {
        let seen = Arc::new(Seen::default());
        let mut tasks = JoinSet::new();
        for _ in 0..WRITERS {
            tasks.spawn(write(self.options.clone(), seen.clone()));
        }
        tasks.spawn(look_for_holes(self.options.clone(), seen.clone()));
        let began = Instant::now();
        while !enough(seen.now()) && began.elapsed() < TIME_MAX {
            // A task that ends earlier has panicked.
            let ended = tokio::time::timeout(Duration::from_millis(50), tasks.join_next()).await;
            assert!(ended.is_err(), "{ended:?}");
        }
        tasks.shutdown().await;
        seen.now()
    }
}

async fn write(options: PgConnectOptions, seen: Arc<Seen>) {
    let mut db = PgConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("set deadlock_timeout = '20ms'")
        .execute(&mut db)
        .await
        .unwrap();
    loop {
        match sqlx::query(BATCH).fetch_one(&mut db).await {
            Ok(_) => seen.batches.fetch_add(1, Relaxed),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("40P01") => {
                seen.deadlocks.fetch_add(1, Relaxed)
            }
            Err(error) => panic!("{error}"),
        };
    }
}

async fn look_for_holes(options: PgConnectOptions, seen: Arc<Seen>) {
    let mut db = PgConnection::connect_with(&options).await.unwrap();
    loop {
        let row = sqlx::query(HOLES).fetch_one(&mut db).await.unwrap();
        let holes = u64::try_from(row.get::<i64, _>(0)).unwrap();
        seen.holes.fetch_add(holes, Relaxed);
        seen.looks.fetch_add(1, Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_contending_writers_never_deadlock_and_no_snapshot_has_a_hole() {
    let enough = |[batches, _, _, looks]: [u64; 4]| batches >= BATCHES && looks > 5;
    let seen = Load::new().await.write(enough).await;
    assert!(enough(seen), "too little was written: {seen:?}");
    assert_eq!((seen[1], seen[2]), (0, 0), "deadlocks, holes");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_order_of_row_locks_they_deadlock() {
    let load = Load::new().await;
    load.break_ingest(
        "order by s.id for no key update",
        "order by random() for no key update",
    )
    .await;
    assert!(load.write(|seen| seen[1] > 0).await[1] > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_order_in_which_streams_are_made_they_deadlock() {
    let load = Load::new().await;
    load.break_ingest(
        "group by b.hook, b.okey order by b.hook, b.okey",
        "group by b.hook, b.okey order by random()",
    )
    .await;
    assert!(load.write(|seen| seen[1] > 0).await[1] > 0);
}

/// Writes through five nodes' own stores until `enough` of the deadlocks that their metrics count, and of
/// batches; gives both, and the page of the metrics.
async fn write_through_stores(
    load: &Load,
    batch: fn() -> Vec<NewEvent>,
    enough: impl Fn(u64, u64) -> bool,
) -> (u64, u64, String) {
    let metrics = Metrics::new();
    let batches = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..WRITERS {
        let observer = engine::observer(metrics.clone(), tokio::sync::watch::channel(None).0);
        let store = Store::open(load._home.database(), observer).await.unwrap();
        let batches = batches.clone();
        tasks.spawn(async move {
            loop {
                let batch = batch();
                match store.append(move || batch).await {
                    Ok(_) => batches.fetch_add(1, Relaxed),
                    // Twice in a row: not stored.
                    Err(Error::Contended(..) | Error::Busy(_)) => 0,
                    Err(error) => panic!("{error}"),
                };
            }
        });
    }
    load.break_now().await;
    let deadlocks = || {
        let page = metrics.encode();
        let line = "hooklane_database_retries_total{reason=\"deadlock\"} ";
        let value = page.lines().find_map(|found| found.strip_prefix(line));
        (value.unwrap().parse().unwrap(), page.clone())
    };
    let began = Instant::now();
    loop {
        let (count, page): (u64, String) = deadlocks();
        let written = batches.load(Relaxed);
        if enough(count, written) || began.elapsed() > TIME_MAX {
            tasks.shutdown().await;
            return (count, written, page);
        }
        let ended = tokio::time::timeout(Duration::from_millis(50), tasks.join_next()).await;
        assert!(ended.is_err(), "{ended:?}");
    }
}

/// Events of few hot streams in no order, two of them with one dedupe key: so the long way is taken.
fn batch() -> Vec<NewEvent> {
    batch_with_repeats(2)
}

/// The same without a repeat: so the short way is taken.
fn short_batch() -> Vec<NewEvent> {
    batch_with_repeats(1)
}

fn batch_with_repeats(times: usize) -> Vec<NewEvent> {
    let mut keys: Vec<u8> = (0..8).collect();
    static MADE: AtomicU64 = AtomicU64::new(0);
    keys.shuffle(&mut StdRng::seed_from_u64(MADE.fetch_add(1, Relaxed)));
    let event = |key: u8, dedupe_key: Option<String>| {
        let key = OrderingKey::new(format!("hot{key}").as_bytes());
        NewEvent {
            hook: HookId(1),
            slot: Slot::of(&"h1".parse().unwrap(), &key),
            key,
            id: EventId::new(Timestamp::now()),
            received_at: Timestamp::now(),
            key_id: None,
            dedupe_key,
            headers: "{}".into(),
            body: "x".to_owned().into(),
            provided: None,
        }
    };
    let once = format!("{:x}", rand::random::<u64>());
    let repeats = (0..times).map(|_| event(keys[0], Some(once.clone())));
    let rest = keys[1..].iter().map(|key| event(*key, None));
    repeats.chain(rest).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_of_five_nodes_count_no_deadlock() {
    let load = Load::new().await;
    let (deadlocks, batches, page) =
        write_through_stores(&load, batch, |_, batches| batches >= BATCHES / 4).await;
    assert!(batches >= BATCHES / 4, "too little was written: {batches}");
    assert_eq!(deadlocks, 0, "{page}");
    let none = "hooklane_database_retries_total{reason=\"serialization\"} 0";
    assert!(page.contains(none), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_order_of_row_locks_the_metrics_count_deadlocks() {
    let load = Load {
        breaks: Some((
            "order by s.id for no key update",
            "order by random() for no key update",
        )),
        ..Load::new().await
    };
    let (deadlocks, _, page) =
        write_through_stores(&load, batch, |deadlocks, _| deadlocks > 0).await;
    assert!(deadlocks > 0, "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_short_way_of_five_nodes_leaves_no_hole_and_no_deadlock() {
    let load = Load::new().await;
    let (deadlocks, batches, page) =
        write_through_stores(&load, short_batch, |_, batches| batches >= BATCHES).await;
    assert!(batches >= BATCHES, "too little was written: {batches}");
    assert_eq!(deadlocks, 0, "{page}");
    let mut db = PgConnection::connect_with(&load.options).await.unwrap();
    let holes = sqlx::query(HOLES).fetch_one(&mut db).await.unwrap();
    assert_eq!(holes.get::<i64, _>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_order_of_row_locks_the_short_way_deadlocks() {
    let load = Load {
        breaks: Some(("order by x.id", "order by random()")),
        ..Load::new().await
    };
    let enough = |deadlocks, _| deadlocks > 0;
    let (deadlocks, _, page) = write_through_stores(&load, short_batch, enough).await;
    assert!(deadlocks > 0, "{page}");
}

/// Number of lookups of streams by hook alone, and by hook and key, while events are stored. Each hook has
/// one stream when the tables are analyzed, so a hook alone looks unique from then on.
async fn lookups(load: &Load) -> (i64, i64) {
    const SCANS: &str = "select coalesce(sum(idx_scan) filter (where indexrelname = 'streams_by_hook'), 0)::bigint,
        coalesce(sum(idx_scan) filter (where indexrelname = 'streams_hook_ordering_key_key'), 0)::bigint
        from pg_stat_user_indexes";
    load.run(
        "insert into streams (hook, ordering_key, slot, created_at)
           select n, 'all', 1, 1 from generate_series(1, 60) n; analyze streams",
    )
    .await;
    let store = load._home.open().await.unwrap();
    for batch in [batch, short_batch] {
        store.append(batch).await.unwrap();
        store.append(batch).await.unwrap();
    }
    let found = store.stream(HookId(1), &OrderingKey::new(b"hot1")).await;
    assert!(found.unwrap().is_some());
    store.close().await;
    let mut db = PgConnection::connect_with(&load.options).await.unwrap();
    let began = Instant::now();
    loop {
        let row = sqlx::query(SCANS).fetch_one(&mut db).await.unwrap();
        let (by_hook, by_key): (i64, i64) = (row.get(0), row.get(1));
        // The server counts a while after a connection has ended.
        if by_hook + by_key >= 30 {
            return (by_hook, by_key);
        }
        let counted = by_hook + by_key;
        assert!(began.elapsed() < TIME_MAX, "{counted} lookups were counted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_looked_up_by_hook_and_key_whatever_the_statistics_say() {
    let (by_hook, by_key) = lookups(&Load::new().await).await;
    assert!(by_hook == 0 && by_key > 0, "{by_hook}, {by_key}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_index_of_pages_for_every_lookup_they_would_read_whole_hooks() {
    let load = Load::new().await;
    load.run("drop index streams_by_hook; create index streams_by_hook on streams (hook, id)")
        .await;
    assert!(lookups(&load).await.0 > 0);
}

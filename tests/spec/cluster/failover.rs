//! A standby takes the place of the Postgres server under the nodes: with a standby that each commit waits
//! for nothing is lost, and without one everybody is told exactly what was.
//!
//! The servers are real; nodes find them through a link that is turned from one to the other, as an
//! address that follows the primary is.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use hooklane::domain::hook::Reducer;
use hooklane::domain::thresholds::Thresholds;
use hooklane::domain::time::Timestamp;
use hooklane::store::{Database, Store};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::daemon::{Daemon, Home, Servers};
use super::pooler::Pooler;
use super::postgres::Server;
use super::store::{event, plan};
use super::world::{Ask, Reply, World, until};

const HOOKS: &str = "[[hooks]]\nname = 'orders'\nreduce = 'count'\norder_by = 'body:/account'\n\
    [[hooks]]\nname = 'later'\norder_by = '/account'\nversion_by = '/v'\nreorder_window = '1h'\n\
    [[hooks]]\nname = 'soon'\nreduce = 'count'\norder_by = '/account'\nversion_by = '/v'\nreorder_window = '10ms'\n";
const ACCOUNTS: usize = 6;

/// Two nodes on a server that has a standby.
struct Pair {
    primary: &'static Server,
    standby: Server,
    servers: Arc<Servers>,
    door: Door,
    _pooler: Option<Pooler>,
    first: World,
    second: Home,
    _second: Daemon,
}

/// A link to the directory of one server's socket.
struct Door(TempDir);

impl Door {
    fn to(server: &Server) -> Self {
        let door = Self(tempfile::tempdir_in("/tmp").unwrap());
        door.turn(server);
        door
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("primary")
    }

    fn turn(&self, server: &Server) {
        let new = self.0.path().join("new");
        symlink(server.dir(), &new).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }
}

impl Pair {
    fn start() -> Self {
        Self::through(|_| None)
    }

    /// The same, perhaps with a pooler that is given the address.
    fn through(pooler: impl FnOnce(&Path) -> Option<Pooler>) -> Self {
        // Its guard ends it with this process.
        let primary: &'static Server = Box::leak(Box::new(Server::start()));
        let door = Door::to(primary);
        let pooler = pooler(&door.path());
        let servers = match &pooler {
            Some(pooler) => pooler.servers(primary),
            None => Servers::behind(primary, door.path().display().to_string()),
        };
        let standby = primary.standby();
        let mut first = World::at(Home::of(&servers, "a"), &[], HOOKS);
        first.may_complain = true;
        let second = Home::of(&servers, "b");
        let daemon = second.start();
        Self {
            primary,
            standby,
            servers,
            door,
            _pooler: pooler,
            first,
            second,
            _second: daemon,
        }
    }

    /// Kills the primary; the standby takes its place.
    fn fail_over(&self) {
        self.promote();
        self.door.turn(&self.standby);
    }

    /// The same, before the nodes find it.
    fn promote(&self) {
        self.primary.kill();
        self.standby.ask("postgres", "select pg_promote()");
    }

    /// Sends to each account, and lets the standby hear of nothing after that.
    fn send_and_cut_off(&self) {
        self.send_all();
        let count = self.stored(self.primary).len();
        until(|| (self.stored(&self.standby).len() == count).then_some(()));
        let alter = "alter system set primary_conninfo = ''";
        self.standby.ask("postgres", alter);
        self.standby.reload("primary_conninfo", "");
        let receives = "select count(*) from pg_stat_wal_receiver";
        until(|| {
            let receives = self.standby.ask("postgres", receives);
            receives.contains("0").then_some(())
        });
    }

    /// Sends one event to each account, through both nodes in turn; the ids of those accepted, with their
    /// places.
    fn send(&self) -> BTreeSet<(String, String, i64)> {
        let send = |account: usize| {
            let home = match account % 2 {
                0 => &self.first.home,
                _ => &self.second,
            };
            let account = format!("c{account}");
            let body = json!({"account": account, "amount": 1}).to_string();
            let reply = ask(home, Ask::post("orders").key(&self.first.write).body(body));
            let said = reply.json();
            let seq = said["seq"].as_i64().filter(|_| reply.status == 202)?;
            Some((said["event"].as_str()?.to_owned(), account, seq))
        };
        (0..ACCOUNTS).filter_map(send).collect()
    }

    /// The same until every account has got one.
    fn send_all(&self) -> BTreeSet<(String, String, i64)> {
        let mut sent = BTreeSet::new();
        until(|| {
            sent.extend(self.send());
            let accounts: BTreeSet<_> = sent.iter().map(|(_, account, _)| account).collect();
            (accounts.len() == ACCOUNTS).then_some(())
        });
        sent
    }

    /// The events in the tables of a server.
    fn stored(&self, server: &Server) -> BTreeSet<(String, String, i64)> {
        let rows = "select json_build_array(encode(e.id, 'hex'), s.ordering_key, e.seq)
            from events e join streams s on s.id = e.stream";
        let rows = server.ask(&self.servers.database, rows).into_iter();
        rows.map(|row| {
            let row: Value = serde_json::from_str(&row).unwrap();
            let text = |at: usize| row[at].as_str().unwrap().to_owned();
            (shown(&text(0)), text(1), row[2].as_i64().unwrap())
        })
        .collect()
    }

    /// A figure of both nodes together.
    fn total(&self, name: &str) -> u64 {
        let of = |home: &Home| {
            let page = ask(home, Ask::new("GET", "/metrics")).body;
            let page = String::from_utf8(page).unwrap();
            let line = page.lines().find_map(|line| line.strip_prefix(name));
            let value: u64 = line.unwrap_or("0").trim().parse().unwrap();
            value
        };
        of(&self.first.home) + of(&self.second)
    }

    /// Waits until both nodes have looked for what they had acknowledged.
    fn has_noticed(&self) {
        let noticed = |home: &Home| home.log().contains("before the failover was looked for");
        until(|| (noticed(&self.first.home) && noticed(&self.second)).then_some(()));
        assert_eq!(self.total("hooklane_failovers_total"), 2);
    }

    /// Waits until every event is applied, and each stream's state counts as many as it has.
    fn all_is_applied(&self) {
        let heads = "select ordering_key || ' ' || head from streams";
        for row in self.standby.ask(&self.servers.database, heads) {
            let (account, head) = row.split_once(' ').unwrap();
            let head: i64 = head.parse().unwrap();
            let state = self.first.state(&format!("orders/{account}"), head);
            assert_eq!(state, head, "{account}");
        }
        let holes = "select count(*) from (
            select s.head, count(e.seq) as events, max(e.seq) as last
            from streams s join events e on e.stream = s.id group by s.id, s.head) x
            where head <> events or head <> last";
        let holes = self.standby.ask(&self.servers.database, holes);
        assert_eq!(holes.first().unwrap(), "0");
    }

    fn status(&self) -> Output {
        self.second.command(&["status"]).output().unwrap()
    }
}

fn ask(home: &Home, ask: Ask) -> Reply {
    super::world::send(home.addr, &ask.bytes())
}

/// An id as people see it.
fn shown(hex: &str) -> String {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..32).step_by(2).map(byte).collect();
    hooklane::domain::event::EventId::from_bytes(bytes.try_into().unwrap()).to_string()
}

#[test]
fn with_a_standby_that_commits_wait_for_no_acknowledged_event_is_lost() {
    let pair = Pair::start();
    let wait = "alter system set synchronous_standby_names = '*'";
    pair.primary.ask("postgres", wait);
    pair.primary.reload("synchronous_standby_names", "*");
    let mut sent = BTreeSet::new();
    for _ in 0..20 {
        sent.extend(pair.send_all());
    }
    let epoch = epoch(pair.primary, &pair.servers);
    pair.fail_over();
    sent.extend(pair.send_all());
    pair.has_noticed();
    sent.extend(pair.send_all());
    let stored = pair.stored(&pair.standby);
    let lost: Vec<_> = sent.difference(&stored).collect();
    assert_eq!(lost, Vec::<&(String, String, i64)>::new());
    assert_eq!(pair.total("hooklane_events_lost_total"), 0);
    pair.all_is_applied();
    let raised = self::epoch(&pair.standby, &pair.servers) - epoch;
    assert!((1 << 20..2 << 20).contains(&raised), "once: {raised}");
    assert!(!told(&pair.status()).contains("failed over"));
}

#[test]
fn what_a_standby_did_not_have_yet_is_named_to_everybody_until_somebody_knows() {
    what_is_missing_is_named(&Pair::start());
}

/// The connections of the nodes stay open, and lead to the standby from one transaction to the next.
#[test]
fn behind_a_pooler_what_a_standby_did_not_have_yet_is_named_too() {
    let pooler = |door: &Path| Some(Pooler::to(door, "transaction", 6));
    what_is_missing_is_named(&Pair::through(pooler));
}

fn what_is_missing_is_named(pair: &Pair) {
    pair.send_and_cut_off();
    let (mut lost, mut seen) = (pair.send_all(), 0);
    lost.extend(pair.send_all());
    for (_, account, seq) in &lost {
        // Their moves are lost too.
        seen += pair
            .first
            .state(&format!("orders/{account}"), *seq)
            .as_i64()
            .unwrap();
    }
    assert!(seen > 0);
    pair.fail_over();
    pair.has_noticed();

    let said = pair.second.run(&["events", "lost", "-o", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    let row = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let account = text("stream").replace("orders/", "");
        (text("event"), account, row["seq"].as_i64().unwrap())
    };
    let named: BTreeSet<_> = said["items"].as_array().unwrap().iter().map(row).collect();
    assert_eq!(named, lost);
    assert_eq!(pair.total("hooklane_events_lost_total"), lost.len() as u64);
    let all = format!("lost {} acknowledged events", lost.len());
    let status = until(|| Some(pair.status()).filter(|status| told(status).contains(&all)));
    assert_eq!(status.status.code(), Some(3));
    let why = pair.second.run(&["why", "orders/c1"]);
    assert!(why.contains("lost 2 acknowledged events of it"), "{why}");

    pair.send_all();
    pair.all_is_applied();
    pair.second.run(&["events", "lost", "--acknowledge"]);
    until(|| (!told(&pair.status()).contains("failed over")).then_some(()));
    let audit = pair.second.run(&["audit", "list"]);
    assert!(audit.contains("events lost --acknowledge"), "{audit}");
}

/// An event that a window holds back is acknowledged before it is in a stream.
#[test]
fn held_back_events_that_a_standby_did_not_have_yet_are_named_and_no_others() {
    let pair = Pair::start();
    let hold = |home: &Home, hook: &str| {
        let body = json!({"account": "c1", "v": 7}).to_string();
        let reply = ask(home, Ask::post(hook).key(&pair.first.write).body(body));
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.json()["event"].as_str().unwrap().to_owned()
    };
    // One is still held back on the standby, the other was released.
    hold(&pair.first.home, "later");
    hold(&pair.second, "soon");
    pair.first.state("soon/c1", 1);
    pair.send_and_cut_off();
    let mut lost = [&pair.first.home, &pair.second].map(|home| hold(home, "later"));
    lost.sort();
    pair.fail_over();
    pair.has_noticed();

    let said = pair.second.run(&["events", "lost", "-o", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    let items = said["items"].as_array().unwrap();
    let mut named: Vec<_> = items
        .iter()
        .map(|row| row["event"].as_str().unwrap())
        .collect();
    named.sort_unstable();
    assert_eq!(named, lost);
    for row in items {
        assert_eq!(
            (&row["stream"], &row["seq"]),
            (&json!("later/c1"), &Value::Null)
        );
    }
    assert_eq!(pair.total("hooklane_events_lost_total"), 2);
    let shown = pair.second.run(&["events", "lost"]);
    assert!(shown.contains("later/c1  held"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_pooler_no_event_is_stored_by_another_server_until_that_is_accepted() {
    let primary = Server::start();
    let (door, standby) = (Door::to(&primary), primary.standby());
    let pooler = Pooler::to(&door.path(), "transaction", 6);
    let database: Database = pooler.url("postgres").parse().unwrap();
    let store = Store::open(database, Box::new(|_| {})).await.unwrap();
    let (now, default) = (Timestamp::now(), "default".parse().unwrap());
    store
        .create_namespace(&default, 4, Thresholds::default(), now)
        .await
        .unwrap();
    let hooks = [plan("hook1", Some(Reducer::Count))];
    store.create_hooks(&hooks, now).await.unwrap().unwrap();
    let append = async |body| {
        let events = vec![event(1, "a", body, None)];
        store.append(move || events).await
    };
    append("1").await.unwrap();
    let has_tables = "select to_regclass('events') is not null";
    until(|| {
        let has_tables = standby.ask("postgres", has_tables);
        has_tables.contains("t").then_some(())
    });
    let stored = || standby.ask("postgres", "select count(*) from events");
    until(|| stored().contains("1").then_some(()));

    primary.kill();
    standby.ask("postgres", "select pg_promote()");
    door.turn(&standby);
    let history = loop {
        if let Ok(Some(history)) = store.history().await {
            break history;
        }
    };
    assert_eq!(history.timeline, 2);
    assert!(append("2").await.is_err());
    assert!(stored().contains("1"));
    store.accept_history(history).await.unwrap();
    append("2").await.unwrap();
    assert!(stored().contains("2"));
}

/// No prefix of a log is like this, because a cursor moves after its events were committed; but tables are,
/// that were restored or copied one by one.
#[test]
fn a_cursor_beyond_the_head_of_its_stream_is_held_until_its_state_is_folded_again() {
    let pair = Pair::start();
    pair.send_and_cut_off();
    for (_, account, seq) in pair.send_all() {
        pair.first.state(&format!("orders/{account}"), seq);
    }
    // The standby may not even have the row.
    let rows =
        "select format('insert into cursors (stream, handler, position, state, chain, updated_at)
        values (%s, %s, %s, %L, %L, %s) on conflict (stream, handler) do update set
        position = excluded.position, state = excluded.state, chain = excluded.chain;',
        stream, handler, position, state, chain, updated_at) from cursors";
    let rows = rows.replace('\n', " ");
    let rows = pair.primary.ask(&pair.servers.database, &rows);
    pair.promote();
    for row in rows {
        pair.standby.ask(&pair.servers.database, &row);
    }
    pair.door.turn(&pair.standby);
    pair.has_noticed();
    let held = || {
        let rows = "select stream || ' at ' || position from cursors where condition = 'held'
            and reason like 'the database lost events: position ' || position || ', but the head is %'";
        pair.standby.ask(&pair.servers.database, rows)
    };
    let before = held();
    assert_eq!(before.len(), ACCOUNTS);
    let why = pair.second.run(&["why", "orders/c1"]);
    assert!(why.contains("the database lost events"), "{why}");

    // New events have numbers that their cursor has passed.
    pair.send_all();
    pair.send_all();
    assert_eq!(held(), before);
    let rebuild = ["state", "rebuild", "orders", "--yes", "--confirm", "orders"];
    pair.second.run(&rebuild);
    pair.all_is_applied();
}

/// Output of a command.
fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn epoch(server: &Server, servers: &Servers) -> i64 {
    let read = "select value from counters where name = 'epoch'";
    let said = server.ask(&servers.database, read);
    said.first().unwrap().parse().unwrap()
}

//! PgBouncer between the nodes and Postgres: everything works through one that pools sessions and through
//! one that pools transactions, with fewer sessions than connections; one that pools statements is refused.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Row as _};

use super::cluster::Cluster;
use super::daemon::{Home, Servers};
use super::migrate::everything_moves;
use super::postgres::{Server, as_postgres, shared};
use super::refused::refused;
use super::world::{World, until};

/// Ends with the input of its shell, whose lines kill it and start it again.
const GUARD: &str = r#"
trap '' INT HUP
start() {
  pgbouncer --quiet pgbouncer.ini & pid=$!
  until [ -S .s.PGSQL.5432 ] || ! kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
}
end() { kill -9 "$pid"; wait "$pid" 2>/dev/null; rm -f .s.PGSQL.5432 pid; }
start; echo ready
while read -r word; do "$word"; echo "$word"; done
end
rm -rf "$PWD"
"#;

/// Sessions of a pool that every connection has one of, and of one that they must share.
const MANY: u32 = 60;
const FEW: u32 = 6;

pub struct Pooler {
    dir: PathBuf,
    guard: Child,
    said: Mutex<BufReader<ChildStdout>>,
}

impl Pooler {
    fn start(server: &Server, mode: &str, sessions: u32) -> Self {
        Self::to(server.dir(), mode, sessions)
    }

    /// In front of the server with the socket in this directory, as the README has it.
    pub fn to(server: &Path, mode: &str, sessions: u32) -> Self {
        let readme = include_str!("../../../README.md");
        let (_, settings) = readme.split_once("```ini\n").unwrap();
        let (settings, _) = settings.split_once("```").unwrap();
        Self::with(server, mode, sessions, settings)
    }

    fn with(server: &Path, mode: &str, sessions: u32, settings: &str) -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap().keep();
        let path = dir.display();
        let text = format!(
            "[databases]\n* = host={} port=5432\n{settings}listen_port = 5432\n\
             unix_socket_dir = {path}\nlogfile = {path}/log\npidfile = {path}/pid\nauth_type = trust\n\
             auth_file = {path}/users\npool_mode = {mode}\ndefault_pool_size = {sessions}\n\
             max_client_conn = 900\nserver_idle_timeout = 1\n",
            server.display()
        );
        fs::write(dir.join("pgbouncer.ini"), text).unwrap();
        fs::write(dir.join("users"), "\"postgres\" \"\"\n").unwrap();
        if rustix::process::geteuid().is_root() {
            let mut own = Command::new("chown");
            own.args(["-R", "postgres"]).arg(&dir);
            assert!(own.status().unwrap().success());
        }
        let mut guard = as_postgres("sh");
        guard.args(["-c", GUARD]).current_dir(&dir);
        guard.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guard = guard.spawn().unwrap();
        let said = BufReader::new(guard.stdout.take().unwrap()).into();
        let pooler = Self { dir, guard, said };
        pooler.hears("ready");
        let socket = pooler.dir.join(".s.PGSQL.5432");
        assert!(socket.exists(), "no PgBouncer: apt-get install pgbouncer");
        pooler
    }

    fn hears(&self, word: &str) {
        let mut said = String::new();
        self.said.lock().read_line(&mut said).unwrap();
        assert_eq!(said.trim(), word);
    }

    /// Ends it with -9, or starts it again.
    fn tell(&self, word: &str) {
        let mut input = self.guard.stdin.as_ref().unwrap();
        writeln!(input, "{word}").unwrap();
        self.hears(word);
    }

    /// One that pools transactions, for all tests of this process.
    pub fn shared() -> &'static Self {
        static POOLER: LazyLock<Pooler> =
            LazyLock::new(|| Pooler::start(shared(), "transaction", FEW));
        &POOLER
    }

    /// Address of a database behind it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres:///{database}?user=postgres&host={}", self.door())
    }

    fn door(&self) -> String {
        self.dir.display().to_string()
    }

    /// The server behind it.
    pub fn servers(&self, server: &'static Server) -> Arc<Servers> {
        Servers::behind(server, self.door())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// Two nodes: webhooks through both, states from both, a resize, a node that goes.
fn everything_works(servers: &Arc<Servers>) {
    let hooks = "[[hooks]]\nname = 'orders'\nreduce = 'count'\norder_by = 'body:/account'\n";
    let mut first = World::at(Home::of(servers, "a"), &[], hooks);
    let second = Home::of(servers, "b");
    let mut daemon = second.start();
    let owners = "select count(distinct node) from lanes where sealed_at is null";
    until(|| servers.ask(owners).contains("2").then_some(()));
    for n in 0..120 {
        first.accepted("orders", json!({"account": n % 12, "n": n}).to_string());
    }
    first.home.run(&["lanes", "resize", "5", "--yes"]);
    for n in 0..120 {
        first.accepted("orders", json!({"account": n % 12, "n": n}).to_string());
    }
    for account in 0..12 {
        assert_eq!(first.state(&format!("orders/{account}"), 20), 20);
    }
    let stopped = daemon.terminate(Duration::from_secs(10));
    assert!(
        stopped.is_some_and(|status| status.success()),
        "{}",
        second.log()
    );
    first.kill();
    first.restart();
    first.accepted("orders", json!({"account": 3}).to_string());
    assert_eq!(first.state("orders/3", 21), 21);
}

#[test]
fn through_a_pooler_of_sessions_everything_works() {
    let pooler = Pooler::start(shared(), "session", MANY);
    everything_works(&pooler.servers(shared()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_pooler_of_transactions_everything_works_and_nothing_stays_in_a_session() {
    let pooler = Pooler::start(shared(), "transaction", FEW);
    let servers = pooler.servers(shared());
    tokio::task::block_in_place(|| everything_works(&servers));
    let options: PgConnectOptions = servers.url().parse().unwrap();
    let mut held = Vec::new();
    for _ in 0..FEW {
        // A transaction has a session of its own, which the next one does not get.
        let mut db = PgConnection::connect_with(&options).await.unwrap();
        let look = "begin; select (select count(*) from pg_prepared_statements),
            current_setting('enable_seqscan'), current_setting('lock_timeout'),
            current_setting('plan_cache_mode'), current_setting('idle_in_transaction_session_timeout')";
        let row = sqlx::raw_sql(look).fetch_one(&mut db).await.unwrap();
        let settings = [1, 2, 3, 4].map(|at| row.get::<String, _>(at));
        assert_eq!(row.get::<i64, _>(0), 0, "statements are left");
        assert_eq!(settings, ["on", "0", "auto", "0"]);
        held.push(db);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_pooler_of_transactions_nothing_is_lost_by_its_death_or_that_of_what_is_beside_it()
 {
    let postgres: &Server = Box::leak(Box::new(Server::start()));
    let pooler = Pooler::start(postgres, "transaction", FEW);
    let mut cluster = Cluster::on(pooler.servers(postgres));
    let (load, senders) = cluster.load();
    for _ in 0..3 {
        pooler.tell("end");
        load.is_hit();
        pooler.tell("start");
        load.goes_on();
    }
    postgres.kill();
    load.is_hit();
    postgres.start_again();
    load.goes_on();
    cluster.kill(0);
    load.is_hit();
    load.goes_on();
    cluster.restart(0);
    cluster.spread();
    cluster.judge(load, senders).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_cannot_be_used_is_refused_with_the_line_that_it_lacks() {
    let pooler = Pooler::start(shared(), "statement", FEW);
    let url = pooler.servers(shared()).url();
    refused(
        &url,
        &["statement pooling mode", "set pool_mode = transaction"],
    )
    .await;

    let pooler = Pooler::with(shared().dir(), "transaction", FEW, "[pgbouncer]\n");
    let url = pooler.servers(shared()).url();
    refused(
        &url,
        &["set ignore_startup_parameters = extra_float_digits"],
    )
    .await;

    let pooler = Pooler::start(shared(), "session", 1);
    let url = pooler.servers(shared()).url();
    refused(&url, &["no other", "a node holds 20", "default_pool_size"]).await;

    let pooler = Pooler::start(shared(), "transaction", 1);
    let servers = pooler.servers(shared());
    let url = servers.url().replace(&servers.database, "nothing_here");
    refused(&url, &["nothing_here", "does not exist", "createdb"]).await;
}

#[test]
fn through_a_pooler_of_transactions_everything_moves_from_a_file() {
    everything_moves(&Pooler::shared().servers(shared()));
}

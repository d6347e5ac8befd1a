//! PgBouncer between the nodes and Postgres: everything works through one that pools sessions, and through
//! one that pools transactions if it keeps prepared statements; any other is refused.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use hooklane::store::{Database, Store};
use serde_json::json;
use tempfile::TempDir;

use super::daemon::{Home, Servers};
use super::postgres::{Server, as_postgres, shared};
use super::world::{World, until};

/// Ends with the input of its shell.
const GUARD: &str = r#"
trap '' INT HUP
pgbouncer --quiet pgbouncer.ini & pid=$!
until [ -S .s.PGSQL.5432 ] || ! kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
echo ready
cat >/dev/null
kill -9 "$pid"
"#;

struct Pooler {
    dir: TempDir,
    guard: Child,
}

impl Pooler {
    fn start(server: &Server, mode: &str) -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let path = dir.path().display();
        let statements = match keeps_statements() {
            true => "max_prepared_statements = 200",
            false => "",
        };
        let text = format!(
            "[databases]\n* = host={} port=5432\n[pgbouncer]\nlisten_port = 5432\n\
             unix_socket_dir = {path}\nlogfile = {path}/log\npidfile = {path}/pid\nauth_type = trust\n\
             auth_file = {path}/users\npool_mode = {mode}\ndefault_pool_size = 60\nmax_client_conn = 200\n\
             ignore_startup_parameters = extra_float_digits\n{statements}\n",
            server.dir().display()
        );
        fs::write(dir.path().join("pgbouncer.ini"), text).unwrap();
        fs::write(dir.path().join("users"), "\"postgres\" \"\"\n").unwrap();
        if rustix::process::geteuid().is_root() {
            let mut own = Command::new("chown");
            own.args(["-R", "postgres"]).arg(dir.path());
            assert!(own.status().unwrap().success());
        }
        let mut guard = as_postgres("sh");
        guard.args(["-c", GUARD]).current_dir(dir.path());
        guard.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guard = guard.spawn().unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(guard.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        let socket = dir.path().join(".s.PGSQL.5432");
        assert!(socket.exists(), "no PgBouncer: apt-get install pgbouncer");
        Self { dir, guard }
    }

    fn door(&self) -> String {
        self.dir.path().display().to_string()
    }

    /// What nodes find behind it.
    fn servers(&self) -> std::sync::Arc<Servers> {
        Servers::behind(shared(), self.door())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// Whether the one that is installed does, which 1.21 was the first to.
fn keeps_statements() -> bool {
    let said = as_postgres("pgbouncer").arg("--version").output();
    let said = String::from_utf8(said.unwrap().stdout).unwrap();
    let version = said.split_whitespace().nth(1).unwrap_or_default();
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (1_u32, 21_u32)
}

/// Two nodes: webhooks through both, states from both, a resize, a node that goes.
fn everything_works(pooler: &Pooler) {
    let servers = pooler.servers();
    let hooks = "[[hooks]]\nname = 'orders'\nreduce = 'count'\norder_by = 'body:/account'\n";
    let mut first = World::at(Home::of(&servers, "a"), &[], hooks);
    let second = Home::of(&servers, "b");
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
    let stopped = daemon.terminate(std::time::Duration::from_secs(10));
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
    everything_works(&Pooler::start(shared(), "session"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_of_transactions_keeps_prepared_statements_or_is_refused() {
    let pooler = Pooler::start(shared(), "transaction");
    if keeps_statements() {
        return tokio::task::block_in_place(|| everything_works(&pooler));
    }
    let url = pooler.servers().url();
    for _ in 0..3 {
        let database: Database = url.parse().unwrap();
        let opened = Store::open(database, Box::new(|_| {})).await;
        let why = opened.err().expect("it works by luck").to_string();
        for word in ["pooler", "1.21", "sessions"] {
            assert!(why.contains(word), "{why}");
        }
        assert!(!why.contains('\n'), "{why}");
    }
}

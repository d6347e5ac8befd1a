//! The two forms of the tables against each other, as the databases themselves describe them: what is
//! made for Postgres, on a private server, is what is made for SQLite, but for what is named here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hooklane::store::Store;
use rusqlite::Connection;
use tempfile::TempDir;

/// What only SQLite has: the log under the view `events`, and what finds a row of it.
const SQLITE_ONLY: [&str; 3] = ["log", "log_ids", "log_index"];

/// What the migrator of SQLite writes down for itself.
const MIGRATOR: &str = "_sqlx_migrations";

/// A relation by its columns: each with its portable type, and whether it may be empty.
type Relations = BTreeMap<String, BTreeMap<String, (String, bool)>>;

#[test]
fn migrations_are_paired_by_number_and_name_and_no_number_is_given_twice() {
    let sqlite = files("sqlite");
    assert_eq!(sqlite, files("postgres"));
    let mut last = 0;
    for file in &sqlite {
        let (number, name) = file.split_once('_').unwrap();
        assert!(number.len() == 4 && name.ends_with(".sql"), "{file}");
        let number: u32 = number.parse().unwrap();
        assert!(number > last, "{file}");
        last = number;
    }
}

#[tokio::test]
async fn both_databases_get_the_same_relations_columns_uniques_and_first_rows() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hooklane.db");
    let store = Store::open(&file, Box::new(|_| {})).await.unwrap();
    store.close().await;
    let sqlite = Connection::open(&file).unwrap();
    let postgres = Server::start();
    for file in files("postgres") {
        postgres.run_file(&folder("postgres").join(file));
    }

    let mut of_sqlite = sqlite_relations(&sqlite);
    for only in SQLITE_ONLY {
        assert!(of_sqlite.remove(only).is_some(), "{only}");
    }
    let mut of_postgres = postgres.relations();
    // SQLite does not say of a view's column whether it may be empty.
    for relations in [&mut of_sqlite, &mut of_postgres] {
        let events = relations.get_mut("events").unwrap();
        events.values_mut().for_each(|column| column.1 = true);
    }
    assert_eq!(of_sqlite, of_postgres);

    let mut of_sqlite = sqlite_uniques(&sqlite);
    for (own, kept_by) in [
        ("events(id)", "log_ids(id)"),
        ("events(stream,seq)", "log_index(stream,seq)"),
        ("events(stream,dedupe_key)", "log(stream,dedupe_key)"),
    ] {
        assert!(of_sqlite.remove(kept_by), "{own} is kept by {kept_by}");
        of_sqlite.insert(own.to_owned());
    }
    // The number of a row is its place in the table, and no index.
    let of_postgres = postgres.uniques();
    let (numbers, of_postgres): (BTreeSet<_>, BTreeSet<_>) = of_postgres
        .into_iter()
        .partition(|unique| unique.ends_with("(id)") && unique != "events(id)");
    assert_eq!(of_sqlite, of_postgres);
    assert_eq!(numbers, sqlite_numbers(&sqlite));

    let mut counters = rows_of(&sqlite, "select name || '|' || value from counters");
    assert!(
        counters.remove("indexed|0"),
        "only SQLite has an index to build"
    );
    assert_eq!(counters, postgres.ask("select name, value from counters"));
}

fn folder(database: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("migrations")
        .join(database)
}

fn files(database: &str) -> Vec<String> {
    let entries = fs::read_dir(folder(database)).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries.map(|e| name(e).into_string().unwrap()).collect();
    names.sort();
    names
}

// SQLite.

fn rows_of(db: &Connection, query: &str) -> BTreeSet<String> {
    let mut read = db.prepare(query).unwrap();
    let rows = read.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn sqlite_relations(db: &Connection) -> Relations {
    let columns = rows_of(
        db,
        "select m.name || '|' || c.name || '|' || lower(c.type) || '|'
            || case when c.\"notnull\" or c.pk then 'NO' else 'YES' end
         from sqlite_schema m, pragma_table_info(m.name) c
         where m.type in ('table', 'view') and m.name not like 'sqlite_%'",
    );
    let mut relations = relations(&columns);
    relations.remove(MIGRATOR);
    relations
}

/// Unique lists of columns, but for the numbers of rows.
fn sqlite_uniques(db: &Connection) -> BTreeSet<String> {
    let uniques = rows_of(
        db,
        "select m.name || '(' || (select group_concat(c.name, ',' order by c.seqno)
                                  from pragma_index_info(i.name) c) || ')'
         from sqlite_schema m, pragma_index_list(m.name) i
         where m.type = 'table' and i.\"unique\"",
    );
    uniques
        .into_iter()
        .filter(|unique| !unique.starts_with(MIGRATOR))
        .collect()
}

/// The tables whose rows have numbers that are never given twice.
fn sqlite_numbers(db: &Connection) -> BTreeSet<String> {
    rows_of(
        db,
        "select name || '(id)' from sqlite_schema where sql like '%id integer primary key autoincrement%'",
    )
}

/// Reads `relation|column|type|may be empty`, types in the words of SQLite.
fn relations(columns: &BTreeSet<String>) -> Relations {
    let mut relations = Relations::new();
    for column in columns {
        let parts: Vec<_> = column.split('|').collect();
        let [relation, column, kind, empty] = parts.try_into().unwrap();
        let kind = match kind {
            "bigint" => "integer",
            "bytea" => "blob",
            portable => portable,
        };
        let columns = relations.entry(relation.to_owned()).or_default();
        columns.insert(column.to_owned(), (kind.to_owned(), empty == "YES"));
    }
    relations
}

// Postgres.

/// A server of its own, reached through a socket in a directory of its own; ends with this value.
struct Server {
    dir: TempDir,
    binaries: PathBuf,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let server = Self {
            dir,
            binaries: binaries(),
        };
        if is_root() {
            // The server refuses to run as root.
            fs::set_permissions(server.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let chown = Command::new("chown")
                .arg("postgres")
                .arg(server.dir.path())
                .output();
            done("chown", chown);
        }
        let initdb = [
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
        ];
        done("initdb", server.command("initdb").args(initdb).output());
        let options = format!("-c listen_addresses= -c fsync=off -k {}", server.path());
        let log = server.dir.path().join("log");
        let mut start = server.command("pg_ctl");
        start.args(["start", "--wait", "--silent", "-o", &options, "-l"]);
        done("pg_ctl start", start.arg(log).output());
        server
    }

    fn path(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    /// One of the server's programs, as a user it accepts.
    fn command(&self, program: &str) -> Command {
        let program = self.binaries.join(program);
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args([
                    "--reuid=postgres",
                    "--regid=postgres",
                    "--clear-groups",
                    "--",
                ]);
                command.arg(program);
                command
            }
            false => Command::new(program),
        };
        command
            .current_dir("/")
            .env("PGDATA", self.dir.path().join("data"));
        command
    }

    fn psql(&self) -> Command {
        let mut psql = Command::new(self.binaries.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
        psql.args([
            "--set=ON_ERROR_STOP=1",
            "--username=postgres",
            "--dbname=postgres",
        ]);
        psql.args(["--host", self.path()]);
        psql
    }

    fn run_file(&self, file: &Path) {
        done("psql", self.psql().arg("--file").arg(file).output());
    }

    fn ask(&self, query: &str) -> BTreeSet<String> {
        let answer = done("psql", self.psql().arg("--command").arg(query).output());
        let lines = String::from_utf8(answer.stdout).unwrap();
        lines.lines().map(str::to_owned).collect()
    }

    fn relations(&self) -> Relations {
        relations(&self.ask(
            "select table_name, column_name, data_type, is_nullable
             from information_schema.columns where table_schema = 'public'",
        ))
    }

    fn uniques(&self) -> BTreeSet<String> {
        self.ask(
            "select i.indrelid::regclass || '(' || string_agg(a.attname, ',' order by k.place) || ')'
             from pg_index i
             join pg_class t on t.oid = i.indrelid and t.relnamespace = 'public'::regnamespace,
             unnest(i.indkey) with ordinality k (number, place)
             join pg_attribute a on a.attnum = k.number
             where i.indisunique and a.attrelid = i.indrelid
             group by i.indexrelid, i.indrelid",
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self
            .command("pg_ctl")
            .args(["stop", "--mode=immediate", "--silent"])
            .output();
    }
}

/// The newest server that is installed, else the one on PATH.
fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let installed = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<_> = std::env::split_paths(&on_path).collect();
    let mut installed: Vec<_> = installed.collect();
    installed.sort();
    let all = installed.into_iter().rev().chain(on_path);
    let has = |dir: &PathBuf| {
        ["initdb", "pg_ctl", "psql"]
            .iter()
            .all(|p| dir.join(p).exists())
    };
    all.into_iter()
        .find(has)
        .expect("initdb, pg_ctl and psql: install postgresql (apt-get install postgresql)")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn done(what: &str, output: std::io::Result<Output>) -> Output {
    let output =
        output.unwrap_or_else(|error| panic!("{what} (is postgresql installed?): {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {said}");
    output
}

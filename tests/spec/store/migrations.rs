//! The two forms of the tables against each other, as the databases themselves describe them: what is
//! made for Postgres is what is made for SQLite, but for what is named here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use hooklane::store::Store;
use rusqlite::Connection;

use crate::postgres;

/// Relations that only SQLite has: the log under the view `events`, and its indexes.
const SQLITE_ONLY: [&str; 3] = ["log", "log_ids", "log_index"];

/// Table of SQLite's migrator.
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
    let name = postgres::shared().database();
    for file in files("postgres") {
        postgres::shared().run_file(&name, &folder("postgres").join(file));
    }

    let mut of_sqlite = sqlite_relations(&sqlite);
    for only in SQLITE_ONLY {
        assert!(of_sqlite.remove(only).is_some(), "{only}");
    }
    let mut of_postgres = postgres_relations(&name);
    // SQLite does not say of a view's column whether it may be empty, and shortens the type of an expression.
    for relations in [&mut of_sqlite, &mut of_postgres] {
        let events = relations.get_mut("events").unwrap();
        for (kind, may_be_empty) in events.values_mut() {
            *may_be_empty = true;
            if kind == "int" {
                *kind = "integer".to_owned();
            }
        }
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
    of_sqlite.extend(sqlite_numbers(&sqlite));
    assert_eq!(of_sqlite, postgres_uniques(&name));

    // Each database draws a number of its own.
    let mut counters = rows_of(
        &sqlite,
        "select name || '|' || value from counters where name <> 'cluster'",
    );
    assert!(
        counters.remove("indexed|0"),
        "only SQLite has an index to build"
    );
    assert_eq!(
        counters,
        postgres::shared().ask(
            &name,
            "select name, value from counters where name <> 'cluster'"
        )
    );
}

#[test]
fn lane_sets_that_exist_get_their_lanes_when_the_tables_are_moved() {
    const BEFORE: &str = "insert into namespaces (name, created_at) values ('default', 1);
        insert into lane_sets (namespace, generation, lanes, state, created_at)
        values ('default', 2, 3, 'stable', 1), ('default', 1, 9, 'stable', 1), ('gone', 1, 5, 'stable', 1)";
    const AFTER: &str = "select namespace || generation || '-' || lane || '-' || epoch from lanes";
    let expected = ["default2-0-0", "default2-1-0", "default2-2-0"];
    let expected = BTreeSet::from(expected.map(str::to_owned));

    let sqlite = Connection::open_in_memory().unwrap();
    let name = postgres::shared().database();
    for file in files("sqlite") {
        if file.ends_with("_nodes.sql") {
            sqlite.execute_batch(BEFORE).unwrap();
            postgres::shared().ask(&name, BEFORE);
        }
        let text = fs::read_to_string(folder("sqlite").join(&file)).unwrap();
        sqlite.execute_batch(&text).unwrap();
        postgres::shared().run_file(&name, &folder("postgres").join(&file));
    }
    assert_eq!(rows_of(&sqlite, AFTER), expected);
    assert_eq!(postgres::shared().ask(&name, AFTER), expected);
}

/// The trail names the actor who made a key, for as long as it goes back.
#[test]
fn keys_that_are_older_than_the_note_of_who_made_them_have_it_from_the_trail() {
    let before: Vec<_> = files("sqlite")
        .into_iter()
        .filter(|file| file.as_str() < "0021")
        .collect();
    let this = "0021_terminal.sql";
    let keys = |hash: &str| {
        format!(
            "insert into keys (key_id, name, kind, hash, created_at)
             values ('7Q2mC0vX', 'shop', 'write', {hash}, 1), ('00000000', 'old', 'read', {hash}, 1)"
        )
    };
    let trail = "insert into audit (at, actor, came_from, operation, subject, details)
        values (1, 'uid 7', 'socket', 'keys create', 'k_7Q2mC0vX', '{}'),
               (2, 'key ops', '10.0.0.7', 'keys revoke', 'k_7Q2mC0vX', '{}')";
    let seen = "select name || ' by ' || coalesce(created_by, 'nobody') from keys";
    let expected = BTreeSet::from(["shop by uid 7".to_owned(), "old by nobody".to_owned()]);

    let sqlite = Connection::open_in_memory().unwrap();
    let run = |file: &str| {
        let sql = fs::read_to_string(folder("sqlite").join(file)).unwrap();
        sqlite.execute_batch(&sql).unwrap();
    };
    before.iter().for_each(|file| run(file));
    sqlite
        .execute_batch(&format!("{}; {trail}", keys("x'00'")))
        .unwrap();
    run(this);
    assert_eq!(rows_of(&sqlite, seen), expected);

    let (server, name) = (postgres::shared(), postgres::shared().database());
    let run = |file: &str| server.run_file(&name, &folder("postgres").join(file));
    before.iter().for_each(|file| run(file));
    server.ask(&name, &keys("'\\x00'"));
    server.ask(&name, trail);
    run(this);
    assert_eq!(server.ask(&name, seen), expected);
}

/// Before the cause of a hold had a column, the reason of an operator's hold began with `held by `.
#[test]
fn cursors_that_an_operator_held_before_the_cause_had_a_column_stay_held_by_an_operator() {
    let before: Vec<_> = files("sqlite")
        .into_iter()
        .filter(|file| file.as_str() < "0094")
        .collect();
    let this = "0094_holds.sql";
    let cursors = |chain: &str| {
        format!(
            "insert into cursors (stream, handler, chain, condition, reason, updated_at) values
             (1, 1, {chain}, 'held', 'held by uid 7: a look', 1),
             (2, 1, {chain}, 'held', 'at seq 1: held by nobody', 1),
             (3, 1, {chain}, 'held', 'Held by nobody', 1), (4, 1, {chain}, 'held', null, 1),
             (5, 1, {chain}, 'waiting', 'held by a lock', 1), (6, 1, {chain}, 'flowing', null, 1)"
        )
    };
    let seen = "select stream || ' ' || coalesce(held_by, 'nobody') from cursors";
    let expected = [
        "operator", "failure", "failure", "failure", "nobody", "nobody",
    ];
    let expected: BTreeSet<_> = (1..)
        .zip(expected)
        .map(|(n, by)| format!("{n} {by}"))
        .collect();

    let sqlite = Connection::open_in_memory().unwrap();
    let run = |file: &str| {
        let sql = fs::read_to_string(folder("sqlite").join(file)).unwrap();
        sqlite.execute_batch(&sql).unwrap();
    };
    before.iter().for_each(|file| run(file));
    sqlite.execute_batch(&cursors("x'00'")).unwrap();
    run(this);
    assert_eq!(rows_of(&sqlite, seen), expected);

    let (server, name) = (postgres::shared(), postgres::shared().database());
    let run = |file: &str| server.run_file(&name, &folder("postgres").join(file));
    before.iter().for_each(|file| run(file));
    server.ask(&name, &cursors("'\\x00'"));
    run(this);
    assert_eq!(server.ask(&name, seen), expected);
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

#[test]
fn events_of_an_earlier_version_get_places_in_the_order_of_their_streams() {
    let server = postgres::shared();
    let name = server.database();
    let (before, after): (Vec<_>, Vec<_>) =
        (files("postgres").into_iter()).partition(|file| file.as_str() < "0110");
    let run = |file: String| server.run_file(&name, &folder("postgres").join(file));
    before.into_iter().for_each(run);
    let insert = |stream: u8, seq: u8| {
        let columns = "stream, seq, id, received_at, headers, body";
        let row = format!("{stream}, {seq}, '\\x{stream:02}{seq:02}', 1, '{{}}', ''");
        server.ask(
            &name,
            &format!("insert into events ({columns}) values ({row})"),
        );
    };
    for (stream, seq) in [(2, 2), (1, 2), (2, 1), (1, 1)] {
        insert(stream, seq);
    }
    after.into_iter().for_each(run);
    insert(1, 3);
    let order = "select string_agg(stream || '.' || seq, ' ' order by place) from events";
    let order = server.ask(&name, order);
    assert_eq!(order, ["1.1 1.2 2.1 2.2 1.3".to_owned()].into());
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

fn postgres_relations(name: &str) -> Relations {
    relations(&postgres::shared().ask(
        name,
        "select table_name, column_name, data_type, is_nullable
         from information_schema.columns where table_schema = 'public'",
    ))
}

fn postgres_uniques(name: &str) -> BTreeSet<String> {
    postgres::shared().ask(
        name,
        "select i.indrelid::regclass || '(' || string_agg(a.attname, ',' order by k.place) || ')'
         from pg_index i
         join pg_class t on t.oid = i.indrelid and t.relnamespace = 'public'::regnamespace,
         unnest(i.indkey) with ordinality k (number, place)
         join pg_attribute a on a.attnum = k.number
         where i.indisunique and a.attrelid = i.indrelid
         group by i.indexrelid, i.indrelid",
    )
}

//! A Postgres server that cannot keep the promises, or cannot be entered, is refused at start, in one
//! line that says what to do.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hooklane::store::{Database, Store};
use sqlx::Connection as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::postgres::{self, Server};

async fn open(url: &str) -> Result<Store, String> {
    let database: Database = url.parse().unwrap();
    let opened = Store::open(database, Box::new(|_| {})).await;
    opened.map_err(|error| error.to_string())
}

/// The reason must say what is wrong and what to do, in one line, without a password.
pub async fn refused(url: &str, words: &[&str]) {
    let began = Instant::now();
    let reason = open(url)
        .await
        .err()
        .expect("nothing keeps it from opening");
    assert!(began.elapsed() < Duration::from_secs(9), "{reason}");
    for word in words {
        assert!(reason.contains(word), "{word}: {reason}");
    }
    assert!(
        !reason.contains('\n') && !reason.contains("secret"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_so() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    // It listens and never answers.
    let silent = format!("postgres://u:secret@{address}/n");
    refused(&silent, &[&address.to_string(), "cannot be reached"]).await;
    drop(free);
    refused(
        &silent,
        &[&address.to_string(), "cannot be reached", "does it run"],
    )
    .await;
    let url = postgres::shared().url("postgres", "nothing_here");
    refused(&url, &["no database nothing_here", "createdb"]).await;
}

#[tokio::test]
async fn a_user_who_may_not_is_refused_with_the_words_that_would_let_him() {
    let server = postgres::shared();
    let name = server.database();
    let role = |rest: &str| server.ask("postgres", &format!("create role {name} login {rest}"));
    role("");
    server.ask(&name, "revoke create on schema public from public");
    let url = server.url(&name, &name);
    refused(&url, &["denied for schema", "grant create"]).await;
    let lets = format!("grant create, usage on schema public to {name}");
    server.ask(&name, &lets);

    let durable = "set synchronous_commit = on";
    let read_only = "turn default_transaction_read_only off";
    for (setting, value, words) in [
        (
            "synchronous_commit",
            "off",
            ["synchronous_commit=off", durable],
        ),
        (
            "synchronous_commit",
            "local",
            ["synchronous_commit=local", durable],
        ),
        (
            "default_transaction_read_only",
            "on",
            ["is read-only", read_only],
        ),
    ] {
        let alter = format!("alter role {name} set {setting} = {value}");
        server.ask("postgres", &alter);
        refused(&url, &words).await;
        server.ask("postgres", &format!("alter role {name} reset {setting}"));
    }
    open(&url).await.unwrap().close().await;

    let other = format!("{name}_other");
    server.ask("postgres", &format!("create role {other} login"));
    let lets = format!("grant create on schema public to {other}");
    server.ask(&name, &lets);
    let not_his = server.url(&other, &name);
    refused(&not_his, &["denied for table", "who made the tables"]).await;
    let revoke = format!("revoke all on schema public from public, {other}");
    server.ask(&name, &revoke);
    refused(&not_his, &["no schema", "grant create"]).await;
    server.ask(
        &name,
        "revoke execute on function pg_control_system() from public",
    );
    refused(&url, &["pg_control_system", "grant execute"]).await;
    let close = format!("revoke connect on database {name} from public");
    server.ask("postgres", &close);
    refused(&not_his, &["denied for database", "grant connect"]).await;
}

/// A real server's answer in which one value has become another: where to find that server.
pub async fn liar(socket: PathBuf, truth: Vec<u8>, lie: Vec<u8>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((outside, _)) = listener.accept().await {
            let inside = tokio::net::UnixStream::connect(&socket).await.unwrap();
            let (mut asked, mut answers) = outside.into_split();
            let (mut told, mut asks) = inside.into_split();
            let (truth, lie) = (truth.clone(), lie.clone());
            tokio::spawn(async move { tokio::io::copy(&mut asked, &mut asks).await });
            tokio::spawn(async move {
                let mut said = vec![0; 1 << 20];
                while let Ok(count @ 1..) = told.read(&mut said).await {
                    let said = &mut said[..count];
                    for at in 0..count.saturating_sub(truth.len() - 1) {
                        if said[at..].starts_with(&truth) {
                            said[at..][..lie.len()].copy_from_slice(&lie);
                        }
                    }
                    if answers.write_all(said).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_old_is_refused() {
    let server = postgres::shared();
    let version = "select current_setting('server_version_num')";
    let version = server.ask("postgres", version);
    let version: i32 = version.first().unwrap().parse().unwrap();
    // As it comes in a row: its length, and the number.
    let number = |version: i32| [4_i32.to_be_bytes(), version.to_be_bytes()].concat();
    let socket = server.dir().join(".s.PGSQL.5432");
    let port = liar(socket, number(version), number(130_018)).await;
    let url = format!("postgres://postgres:secret@127.0.0.1:{port}/postgres?sslmode=disable");
    refused(&url, &["is version", "14 or later is needed"]).await;
}

#[tokio::test]
async fn a_database_in_another_encoding_is_refused() {
    let server = postgres::shared();
    let make = "create database latin encoding 'LATIN1' template template0 locale 'C'";
    server.ask("postgres", make);
    refused(&server.url("postgres", "latin"), &["LATIN1", "UTF8"]).await;
}

#[tokio::test]
async fn a_server_that_forgets_in_a_power_cut_or_only_follows_is_refused() {
    let server = Server::start();
    let url = server.url("postgres", "postgres");
    for setting in ["fsync", "full_page_writes"] {
        server.ask("postgres", &format!("alter system set {setting} = off"));
        server.reload(setting, "off");
        refused(&url, &[&format!("{setting}=off"), "set"]).await;
        server.ask("postgres", &format!("alter system reset {setting}"));
        server.reload(setting, "on");
    }

    server.ask("postgres", "create role bob login password 'other'");
    let hba = "local all bob scram-sha-256\nlocal all eve reject\nlocal all all trust\n";
    fs::write(server.data().join("pg_hba.conf"), hba).unwrap();
    server.restart();
    let bob = format!("{}&password=secret", server.url("bob", "postgres"));
    refused(&bob, &["bob", "password"]).await;
    refused(&server.url("eve", "postgres"), &["eve", "pg_hba.conf"]).await;

    open(&url).await.unwrap().close().await;
    fs::write(server.data().join("standby.signal"), "").unwrap();
    server.restart();
    refused(&url, &["in recovery", "primary"]).await;
}

#[tokio::test]
async fn tls_that_is_asked_for_is_given_and_trusted_or_the_server_is_refused() {
    let server = Server::on_port(free_port(), true);
    let port = server.port();
    let url = |host: &str, rest: &str| {
        format!("postgres://postgres:secret@{host}:{port}/postgres?{rest}")
    };
    let certificate = server.data().join("server.crt");
    let root = format!("sslrootcert={}", certificate.display());
    refused(
        &url("127.0.0.1", "sslmode=verify-full"),
        &["cannot be trusted", "sslrootcert"],
    )
    .await;
    for mode in ["require".to_owned(), format!("verify-full&{root}")] {
        let opened = open(&url("127.0.0.1", &format!("sslmode={mode}"))).await;
        opened
            .unwrap_or_else(|error| panic!("{mode}: {error}"))
            .close()
            .await;
    }
    let encrypted = "select count(*) from pg_stat_ssl where ssl";
    let store = open(&url("127.0.0.1", "sslmode=require")).await.unwrap();
    let ask = format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable");
    let options: sqlx::postgres::PgConnectOptions = ask.parse().unwrap();
    let mut db = sqlx::postgres::PgConnection::connect_with(&options)
        .await
        .unwrap();
    let count: i64 = sqlx::query_scalar(encrypted)
        .fetch_one(&mut db)
        .await
        .unwrap();
    assert!(count > 0, "nothing is encrypted");
    store.close().await;

    let plain = Server::on_port(free_port(), false);
    let port = plain.port();
    let url = format!("postgres://postgres:secret@127.0.0.1:{port}/postgres?sslmode=require");
    refused(&url, &["TLS", "sslmode"]).await;
}

fn free_port() -> u16 {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

#[tokio::test]
async fn nodes_that_start_at_once_make_the_tables_once() {
    let server = postgres::shared();
    let name = server.database();
    let url = server.url("postgres", &name);
    let starts = (0..6).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { open(&url).await.map(drop) })
    });
    let starts: Vec<_> = starts.collect();
    for start in starts {
        assert_eq!(start.await.unwrap(), Ok(()));
    }
    let made = server.ask(&name, "select version from _sqlx_migrations where success");
    assert_eq!(
        made.len(),
        fs::read_dir("migrations/postgres").unwrap().count()
    );
}

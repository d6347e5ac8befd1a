//! A database of its own for each test: a file, or a database on the server that all share, behind a pooler
//! or not.

use hooklane::store::{Database, Error, Store};
use tempfile::TempDir;

use crate::pooler::Pooler;
use crate::postgres;

/// Kind of database.
#[derive(Clone, Copy)]
pub enum On {
    Sqlite,
    Postgres,
    /// Through a pooler that gives a connection another session for each transaction.
    Pooler,
}

/// A database of its own.
pub enum Home {
    File(TempDir),
    Server(String),
    Pooled(String),
}

impl Home {
    pub fn new(on: On) -> Self {
        match on {
            On::Sqlite => Self::File(tempfile::tempdir().unwrap()),
            On::Postgres => Self::Server(postgres::shared().database()),
            On::Pooler => Self::Pooled(postgres::shared().database()),
        }
    }

    pub fn database(&self) -> Database {
        match self {
            Self::File(dir) => (&dir.path().join("hooklane.db")).into(),
            Self::Server(name) => {
                let url = postgres::shared().url("postgres", name);
                url.parse().unwrap()
            }
            Self::Pooled(name) => Pooler::shared().url(name).parse().unwrap(),
        }
    }

    pub async fn open(&self) -> Result<Store, Error> {
        Store::open(self.database(), Box::new(|_| {})).await
    }

    /// Number of rows of a relation.
    pub fn rows(&self, relation: &str) -> i64 {
        let query = format!("select count(*) from {relation}");
        match (self, self.database()) {
            (Self::Server(name) | Self::Pooled(name), _) => {
                let rows = postgres::shared().ask(name, &query);
                rows.first().unwrap().parse().unwrap()
            }
            (_, Database::Sqlite(file)) => {
                let db = rusqlite::Connection::open(file).unwrap();
                db.query_row(&query, [], |row| row.get(0)).unwrap()
            }
            _ => unreachable!(),
        }
    }

    /// Changes the database without the store.
    pub fn tamper(&self, in_file: &str, on_server: &str) {
        match (self, self.database()) {
            (Self::Server(name) | Self::Pooled(name), _) => {
                drop(postgres::shared().ask(name, on_server))
            }
            (_, Database::Sqlite(file)) => {
                let db = rusqlite::Connection::open(file).unwrap();
                db.execute(in_file, []).unwrap();
            }
            _ => unreachable!(),
        }
    }
}

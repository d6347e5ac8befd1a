//! Decides where a command sends its requests: to `--url`, else to the socket in the data directory,
//! else, for operations on the database alone, to the database itself when no daemon has it.
//!
//! Promises: a request gets the same answer on each way, because the database is asked through the same
//! routes, only without a socket.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::IF_MATCH;
use http::request::Builder;
use http::{Method, Request, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::exit::{Exit, Trouble};
use super::lock::{self, Lock};
use crate::admin::Admin;
use crate::api::{List, PlanContext};
use crate::client::{self, Client, Followed, Secret, Target};
use crate::config::{DataDir, LANES_DEFAULT};
use crate::domain::name::StreamName;
use crate::store::Store;
use crate::text::{printable_line, quoted};

/// Flags and environment variables that decide which daemon or database a command reaches.
pub struct Place {
    /// Address of the daemon, from `--url`.
    pub url: Option<String>,
    /// File with the key to use there, from `--key-file`.
    pub key_file: Option<PathBuf>,
    /// Data directory of the daemon on this machine, from `--data`.
    pub data: Option<PathBuf>,
    /// Origin of the data directory.
    pub data_from: String,
    /// Time limit for connecting and for each answer, from `--timeout`.
    pub patience: Duration,
}

impl Place {
    /// The data directory.
    ///
    /// # Errors
    /// [`Trouble`] when none is given and there is no home directory.
    pub fn data(&self) -> Result<DataDir, Trouble> {
        match &self.data {
            Some(path) => Ok(DataDir::at(path)),
            None => Ok(DataDir::standard(|name| std::env::var_os(name))?),
        }
    }

    /// The access key, which is sent to a URL only.
    fn key(&self) -> Result<Secret, Trouble> {
        if let Some(path) = &self.key_file {
            let from = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|error| {
                Trouble::new(Exit::Key, "no_key", format!("no key in {from}: {error}"))
            })?;
            return Secret::parse(&text).map_err(|error| Trouble::key(error, &from));
        }
        match std::env::var("HOOKLANE_KEY") {
            Ok(text) if !text.is_empty() => {
                Secret::parse(&text).map_err(|error| Trouble::key(error, "HOOKLANE_KEY"))
            }
            _ => Err(Trouble::new(Exit::Key, "no_key", "a URL needs a key")
                .fact(
                    "give",
                    "HOOKLANE_KEY in the environment, or --key-file PATH",
                )
                .fact("make", "hooklane keys create, on the machine of the daemon")),
        }
    }
}

/// The database of a data directory without a daemon; the directory is locked while this lives.
pub struct Opened {
    admin: Admin,
    store: Store,
    _lock: Lock,
}

/// The receiver of requests.
pub enum Reach {
    /// A running daemon.
    Daemon(Client),
    /// The database itself.
    Offline(Opened),
}

/// Access to the database that a command may have when no daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offline {
    /// Nothing, because it concerns running lanes.
    Never,
    /// Open the existing database.
    Open,
    /// Open the database, or create one.
    Make,
}

impl Reach {
    /// Finds out where to send requests. A command that only reads creates no directory and no
    /// database.
    ///
    /// # Errors
    /// [`Trouble`] when nothing can answer, or the key is missing or malformed.
    pub async fn find(place: &Place, offline: Offline) -> anyhow::Result<Self> {
        if let Some(url) = &place.url {
            let target = Target::parse(url)?;
            let key = place.key()?;
            return Ok(Self::Daemon(Client::new(target, Some(key), place.patience)));
        }
        let data = place.data()?;
        let client = Client::new(Target::Socket(data.socket()), None, place.patience);
        match client.greet().await {
            Ok(()) => Ok(Self::Daemon(client)),
            Err(error @ client::Error::Unreachable { .. }) => match offline {
                Offline::Make => open(&data).await,
                Offline::Open if data.database().exists() => open(&data).await,
                Offline::Open => Err(no_database(&data, &place.data_from).into()),
                Offline::Never => Err(no_daemon(error, &place.data_from).into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Requests the JSON at `path`.
    ///
    /// # Errors
    /// [`client::Error`]
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, client::Error> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// Sends `body` as JSON and parses the answer.
    ///
    /// # Errors
    /// [`client::Error`]
    pub async fn call<T, B>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, client::Error>
    where
        T: DeserializeOwned,
        B: Serialize,
    {
        self.ask(Request::builder().method(method).uri(path), body)
            .await
    }

    async fn ask<T, B>(&self, request: Builder, body: Option<&B>) -> Result<T, client::Error>
    where
        T: DeserializeOwned,
        B: Serialize,
    {
        let request = match body {
            None => request.body(Bytes::new()),
            Some(body) => {
                let body = serde_json::to_vec(body).map_err(|error| self.garbled(&error))?;
                let request = request.header("content-type", "application/json");
                request.body(body.into())
            }
        };
        let answer = self.exchange(request, Duration::ZERO).await?;
        self.read(&answer)
    }

    /// The context of a plan: node, operator and configuration version.
    ///
    /// # Errors
    /// [`client::Error`]
    pub async fn here(&self) -> Result<PlanContext, client::Error> {
        self.get("/v1/admin/here").await
    }

    /// Like [`Reach::call`], but refused when the configuration has changed since the plan's context
    /// was read.
    ///
    /// # Errors
    /// [`client::Error`]
    pub async fn call_planned<T, B>(
        &self,
        here: &PlanContext,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, client::Error>
    where
        T: DeserializeOwned,
        B: Serialize,
    {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(IF_MATCH, here.version);
        self.ask(request, body).await
    }

    /// Sends a request unchanged; the answer may have any status.
    ///
    /// # Errors
    /// [`client::Error`]
    pub async fn exchange(
        &self,
        request: http::Result<Request<Bytes>>,
        longer: Duration,
    ) -> Result<Response<Bytes>, client::Error> {
        let request = request.map_err(|error| self.garbled(&error))?;
        match self {
            Self::Daemon(client) => client.exchange(request, longer).await,
            Self::Offline(offline) => {
                Ok(crate::http::answer_offline(offline.admin.clone(), request).await)
            }
        }
    }

    /// Parses the JSON of a success.
    ///
    /// # Errors
    /// [`client::Error::Refused`] for any other status.
    pub fn read<T: DeserializeOwned>(&self, answer: &Response<Bytes>) -> Result<T, client::Error> {
        match answer.status().is_success() {
            true => serde_json::from_slice(answer.body()).map_err(|error| self.garbled(&error)),
            false => Err(client::refused(answer.status(), answer.body())),
        }
    }

    /// The full name of a stream; a hashed key may have been shortened, as tables show it.
    ///
    /// # Errors
    /// [`Trouble`] when several streams match.
    pub async fn meant(&self, typed: StreamName) -> Result<StreamName, Trouble> {
        if !typed.is_short() {
            return Ok(typed);
        }
        let query = [
            ("kind", Some("stream".to_owned())),
            ("start", Some(typed.to_string())),
        ];
        // With a key that may not list names, the stream is used as it was typed.
        let path = with_query("/v1/admin/names", &query);
        let found: Result<List<String>, _> = self.get(&path).await;
        let found = found.map_or_else(|_| Vec::new(), |found| found.items);
        match &found[..] {
            [] => Ok(typed),
            [name] => Ok(name.parse().unwrap_or(typed)),
            [first, second, ..] => {
                let message = format!("{typed} is the beginning of several streams");
                Err(Trouble::new(Exit::Missing, "ambiguous", message)
                    .fact("such as", quoted(first))
                    .fact("and", quoted(second)))
            }
        }
    }

    /// Follows the server-sent events at `path`.
    ///
    /// # Errors
    /// [`Trouble`] when no daemon runs, [`client::Error`].
    pub async fn follow(&self, path: &str) -> anyhow::Result<Followed> {
        match self {
            Self::Daemon(client) => Ok(client.follow(path).await?),
            Self::Offline(_) => {
                let message = "no daemon runs, so nothing happens that could be followed";
                Err(Trouble::new(Exit::Unreachable, "no_daemon", message).into())
            }
        }
    }

    /// Closes it; changes of the database are on disk before the lock is released.
    pub async fn close(self) {
        if let Self::Offline(offline) = self {
            let Opened { admin, store, .. } = offline;
            drop(admin);
            store.close().await;
        }
    }

    /// Description of the receiver, for people.
    pub fn whereto(&self) -> String {
        match self {
            Self::Daemon(client) => match client.target() {
                Target::Socket(_) => "through hooklane.sock".to_owned(),
                target @ Target::Tcp { .. } => format!("at {target}"),
            },
            Self::Offline(_) => "in the database, no daemon runs".to_owned(),
        }
    }

    /// Description of where and by whom a plan will be carried out: `on eu-1 (hooklane.sock) as uid
    /// 1000`.
    pub fn planned(&self, here: &PlanContext) -> String {
        let (node, by) = (printable_line(&here.node), printable_line(&here.by));
        match self {
            Self::Daemon(client) => match client.target() {
                Target::Socket(_) => format!("on {node} (hooklane.sock) as {by}"),
                target @ Target::Tcp { .. } => format!("on {node} ({target}) as {by}"),
            },
            Self::Offline(_) => format!("{} as {by}", self.whereto()),
        }
    }

    fn garbled(&self, error: &dyn std::error::Error) -> client::Error {
        let target = match self {
            Self::Daemon(client) => client.target().clone(),
            Self::Offline(_) => Target::Socket(PathBuf::new()),
        };
        let why = error.to_string();
        client::Error::Garbled { target, why }
    }
}

fn no_daemon(error: client::Error, data_from: &str) -> Trouble {
    Trouble::from(error)
        .fact("start", "hooklane serve")
        .fact("elsewhere", ELSEWHERE.to_owned() + data_from)
}

fn no_database(data: &DataDir, data_from: &str) -> Trouble {
    let place = data.path().display();
    let message = format!("no daemon and no database in {place}");
    Trouble::new(Exit::Unreachable, "no_database", message)
        .fact("start", serve(data_from, data))
        .fact("elsewhere", ELSEWHERE.to_owned() + data_from)
}

/// The command that starts a daemon in the same directory.
fn serve(data_from: &str, data: &DataDir) -> String {
    match data_from {
        "--data" => format!("hooklane serve --data {}", quoted(data.path().display())),
        _ => "hooklane serve".to_owned(),
    }
}

const ELSEWHERE: &str = "--data DIR, --url http[s]://HOST:8420 or HOOKLANE_URL   now: ";

/// Locks the data directory and opens its database.
async fn open(data: &DataDir) -> anyhow::Result<Reach> {
    super::migrate::refuse_moved(data)?;
    let lock = lock::wait(data).await?;
    lock::refuse_emptied(data)?;
    if let Some(mended) = &lock.mended {
        eprintln!("{mended}");
    }
    let store = Store::open(&data.database(), Box::new(|_| ())).await?;
    Admin::prepare(&store, LANES_DEFAULT).await?;
    Ok(Reach::Offline(Opened {
        admin: Admin::offline(store.clone()),
        store,
        _lock: lock,
    }))
}

/// Characters that need no escaping in a path or a query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Percent-encodes text for a path or a query.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// A path with those query parameters that have a value.
pub fn with_query(path: &str, query: &[(&str, Option<String>)]) -> String {
    let given = query.iter().filter_map(|(name, value)| {
        let value = value.as_deref()?;
        Some(format!("{name}={}", encoded(value)))
    });
    let given: Vec<_> = given.collect();
    match given.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", given.join("&")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_what_is_there_and_nothing_escapes_from_it() {
        let value = |text: &str| Some(text.to_owned());
        assert_eq!(with_query("/a", &[("b", None)]), "/a");
        let query = [
            ("stream", value("a/b &c=d#é")),
            ("n", None),
            ("limit", value("5")),
        ];
        assert_eq!(
            with_query("/a", &query),
            "/a?stream=a%2Fb%20%26c%3Dd%23%C3%A9&limit=5"
        );
    }

    #[tokio::test]
    async fn a_url_is_refused_without_a_whole_key_before_anything_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "hl_w_7Q2mC0vXr1b9TzKf").unwrap();
        let place = Place {
            url: Some("http://127.0.0.1:1".into()),
            key_file: Some(file),
            data: None,
            data_from: String::new(),
            patience: Duration::from_secs(1),
        };
        let error = Reach::find(&place, Offline::Open).await.err().unwrap();
        let trouble = super::super::exit::trouble(error).unwrap();
        assert_eq!(trouble.exit, Exit::Key);
        assert!(trouble.facts[0].1.contains("21 of 49"), "{trouble}");
    }

    #[tokio::test]
    async fn without_a_daemon_the_error_says_how_to_start_one() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            url: None,
            key_file: None,
            data: Some(dir.path().into()),
            data_from: "--data".to_owned(),
            patience: Duration::from_secs(1),
        };
        let error = Reach::find(&place, Offline::Never).await.err().unwrap();
        let trouble = super::super::exit::trouble(error).unwrap();
        assert_eq!(
            (trouble.exit, trouble.code.as_str()),
            (Exit::Unreachable, "no_daemon")
        );
        assert_eq!(trouble.facts[0], ("start", "hooklane serve".into()));
    }
}

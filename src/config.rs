//! What `serve` runs with, and the files of the data directory.
//!
//! Promises: a [`Config`] that exists is one that can work as far as that shows without I/O. There is
//! no configuration file. Which of flag, environment and default a value came from is decided where
//! they are read, in `cli`; lasting settings (hooks, keys, namespaces) are in the database.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::filter::Targets;

use crate::domain::lane::LANES_MAX;
use crate::lanes::redis::Address;
use crate::store::{Database, InvalidDatabase};

/// Where `serve` listens unless it is told otherwise.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(
    std::net::Ipv4Addr::LOCALHOST,
    8420,
));

/// How many lanes the default namespace gets at the first start.
pub const LANES_DEFAULT: u16 = 8;

/// How long running turns get at the end.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(8);

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Log {
    /// Short lines on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Short lines.
    Short,
    /// One JSON object a line.
    Json,
    /// Only into files: something else has the screen.
    Files,
}

/// What a node runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where its files are.
    pub data: DataDir,
    /// A server that keeps events and cursors; none: a file in the data directory.
    pub database: Option<Database>,
    /// The file with the key that encrypts secrets; none: beside the database, where that is a file.
    pub secret_key: Option<PathBuf>,
    /// A server that keeps hints; none: memory.
    pub redis: Option<Address>,
    /// Where it takes webhooks and requests.
    pub listen: SocketAddr,
    /// Lanes of the default namespace, used at the first start only.
    pub lanes: u16,
    /// What this node is called.
    pub node: String,
    /// How long running turns get at the end.
    pub grace: Duration,
    /// Ranges of private addresses that deliveries may reach.
    pub allow_destinations: Vec<IpNet>,
    /// How the log is written.
    pub log: Log,
    /// Least severe lines of it, of each module.
    pub log_level: Targets,
    /// The same for people, with where each value came from.
    pub settings: Vec<Setting>,
}

/// A value that something runs with, fit to be shown to anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As its flag is called.
    pub name: &'static str,
    /// What it is; never a password or a key.
    pub value: String,
    /// Its flag, its environment variable, or that it is built in.
    pub from: String,
}

/// Settings in a line, those that came from one place together: `lanes 8 (--lanes); listen … (built-in default)`.
pub fn told(settings: &[Setting]) -> String {
    let mut places: Vec<&str> = Vec::new();
    for setting in settings {
        if !places.contains(&setting.from.as_str()) {
            places.push(&setting.from);
        }
    }
    let told = places.iter().map(|place| {
        let from_here = settings.iter().filter(|setting| setting.from == *place);
        let values = from_here.map(|setting| format!("{} {}", setting.name, setting.value));
        format!("{} ({place})", values.collect::<Vec<_>>().join(", "))
    });
    told.collect::<Vec<_>>().join("; ")
}

/// Why a configuration cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No home, no directory given.
    #[error("no data directory: neither XDG_DATA_HOME nor HOME is set")]
    NoDataDir,
    /// The address of a unix socket has room for this much only.
    #[error("{path} is {len} bytes long, a socket's path may have {SOCKET_PATH_MAX}")]
    SocketPath {
        /// The socket.
        path: String,
        /// Its length in bytes.
        len: usize,
    },
    /// Hints of others would be about events that this node does not have.
    #[error("--redis is for nodes that share a server: give --database postgres://… too")]
    RedisAlone,
    /// The text names no database.
    #[error("--database: {0}")]
    Database(#[from] InvalidDatabase),
    /// The text names no Redis.
    #[error("--redis: {0}")]
    Redis(String),
    /// None, or too many.
    #[error("lane count is 1 to {LANES_MAX}, got {0}")]
    Lanes(u16),
    /// Not a name for tables and logs.
    #[error("{0:?} is not a node's name: 1 to 63 printable characters without spaces")]
    Node(String),
}

/// The longest path of a unix socket, in bytes, without the zero at its end.
const SOCKET_PATH_MAX: usize = 107;

impl Config {
    /// The same, checked.
    ///
    /// # Errors
    /// [`Error`] names the value that cannot work.
    pub fn checked(self) -> Result<Self, Error> {
        if !(1..=LANES_MAX).contains(&self.lanes) {
            return Err(Error::Lanes(self.lanes));
        }
        let is_server = matches!(self.database, Some(Database::Postgres(_)));
        if self.redis.is_some() && !is_server {
            return Err(Error::RedisAlone);
        }
        let plain = |c: char| !c.is_control() && !c.is_whitespace();
        if self.node.is_empty() || self.node.len() > 63 || !self.node.chars().all(plain) {
            return Err(Error::Node(self.node));
        }
        let path = self.data.socket();
        let len = path.as_os_str().len();
        if len > SOCKET_PATH_MAX {
            let path = path.display().to_string();
            return Err(Error::SocketPath { path, len });
        }
        Ok(self)
    }
}

/// The name of this machine, the default for the node's.
pub fn host_name() -> String {
    let name = rustix::system::uname();
    match name.nodename().to_str() {
        Ok(name) if !name.is_empty() => name.to_owned(),
        _ => "node".to_owned(),
    }
}

/// The data directory and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The directory that was given.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// `$XDG_DATA_HOME/hooklane`, or `~/.local/share/hooklane`. `var` reads the environment; a
    /// relative `XDG_DATA_HOME` is ignored, as its specification asks.
    ///
    /// # Errors
    /// [`Error::NoDataDir`] when there is nothing to start from.
    pub fn standard(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let given = |name| var(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = || given("HOME").map(|home| home.join(".local/share"));
        let share = given("XDG_DATA_HOME").or_else(home);
        Ok(Self(share.ok_or(Error::NoDataDir)?.join("hooklane")))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Holds the word by which other nodes know this directory.
    pub fn word(&self) -> PathBuf {
        self.0.join("hooklane.id")
    }

    /// The SQLite database.
    pub fn database(&self) -> PathBuf {
        self.0.join("hooklane.db")
    }

    /// Where the daemon answers those who may open this file.
    pub fn socket(&self) -> PathBuf {
        self.0.join("hooklane.sock")
    }

    /// Locked by whoever has the database open to write.
    pub fn lock(&self) -> PathBuf {
        self.0.join("hooklane.lock")
    }

    /// The key that encrypts secrets.
    pub fn secret_key(&self) -> PathBuf {
        self.0.join(crate::store::KEY_FILE)
    }

    /// Whether a node ran here: it left lines in its logs.
    pub fn was_used(&self) -> bool {
        let logs = std::fs::read_dir(self.log()).into_iter().flatten();
        logs.flatten()
            .any(|file| file.metadata().is_ok_and(|meta| meta.len() > 0))
    }

    /// Every file of its own, there or not, but the logs.
    pub fn files(&self) -> Vec<PathBuf> {
        let of_database = |end| self.0.join(format!("hooklane.db{end}"));
        let mut files = vec![self.lock(), self.word(), self.socket(), self.secret_key()];
        files.extend(["", "-wal", "-shm"].map(of_database));
        files
    }

    /// The directory of the daily log files.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn standard(xdg: Option<&str>, home: Option<&str>) -> Result<DataDir, Error> {
        DataDir::standard(|name| match name {
            "XDG_DATA_HOME" => xdg.map(OsString::from),
            _ => home.map(OsString::from),
        })
    }

    #[test]
    fn the_data_directory_is_where_the_desktop_keeps_such_things() {
        let at = |text| Ok(DataDir::at(text));
        assert_eq!(standard(Some("/x"), Some("/home/a")), at("/x/hooklane"));
        let home = at("/home/a/.local/share/hooklane");
        assert_eq!(standard(None, Some("/home/a")), home);
        assert_eq!(standard(Some("x"), Some("/home/a")), home, "relative");
        assert_eq!(standard(Some(""), Some("/home/a")), home, "empty");
        assert_eq!(standard(None, None), Err(Error::NoDataDir));
    }

    #[test]
    fn settings_are_told_by_where_they_came_from() {
        let setting = |name, value: &str, from: &str| Setting {
            name,
            value: value.to_owned(),
            from: from.to_owned(),
        };
        let settings = [
            setting("data", "/x", "built-in default"),
            setting("lanes", "8", "--lanes"),
            setting("log", "auto", "built-in default"),
        ];
        let line = "data /x, log auto (built-in default); lanes 8 (--lanes)";
        assert_eq!(told(&settings), line);
        assert_eq!(told(&[]), "");
    }

    #[test]
    fn what_cannot_work_is_refused_before_anything_starts() {
        let right = Config {
            allow_destinations: Vec::new(),
            data: DataDir::at("/x"),
            database: None,
            secret_key: None,
            redis: None,
            listen: LISTEN_DEFAULT,
            lanes: LANES_DEFAULT,
            node: host_name(),
            grace: GRACE_DEFAULT,
            log: Log::Auto,
            log_level: Targets::new(),
            settings: Vec::new(),
        };
        assert!(right.clone().checked().is_ok());
        let lanes = |lanes| Config {
            lanes,
            ..right.clone()
        };
        assert!(lanes(0).checked().is_err() && lanes(1025).checked().is_err());
        let node = |node: &str| Config {
            node: node.into(),
            ..right.clone()
        };
        assert!(node("").checked().is_err() && node("a\u{1b}[m").checked().is_err());
        let data = DataDir::at("/x".repeat(60));
        assert!(Config { data, ..right }.checked().is_err());
    }
}

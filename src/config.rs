//! Configuration of `serve`, and the files of the data directory.
//!
//! Promises: an existing [`Config`] is valid as far as that can be checked without I/O. There is no
//! configuration file. `cli` decides whether a value comes from a flag, the environment or a default;
//! lasting settings (hooks, keys, namespaces) are in the database.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::filter::Targets;

use crate::domain::alert::Alerts;
use crate::domain::lane::LANES_MAX;
use crate::domain::network::Networks;
use crate::lanes::redis::Address;
use crate::store::{Database, InvalidDatabase};

/// Default address that `serve` listens on.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(
    std::net::Ipv4Addr::LOCALHOST,
    8420,
));

/// Number of lanes of the default namespace at the first start.
pub const LANES_DEFAULT: u16 = 8;

/// Default time for running turns when the daemon stops.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(8);

/// Format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Log {
    /// Short lines on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Short lines.
    Short,
    /// One JSON object per line.
    Json,
    /// Only into files, because a dashboard uses the screen.
    Files,
}

/// Default number of open connections of one address.
pub const PER_ADDRESS_DEFAULT: u16 = 1_024;

impl Default for Door {
    /// Plain HTTP without a proxy.
    fn default() -> Self {
        Self {
            trusted: Networks::default(),
            proxy_protocol: false,
            per_address_max: PER_ADDRESS_DEFAULT.into(),
            tls: None,
        }
    }
}

/// Configuration of a node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory.
    pub data: DataDir,
    /// Database for events and cursors; `None` for a file in the data directory.
    pub database: Option<Database>,
    /// File with the key that encrypts secrets; `None` for the file beside an SQLite database.
    pub secret_key: Option<PathBuf>,
    /// Redis server for hints; `None` for memory.
    pub redis: Option<Address>,
    /// Address for webhooks and requests.
    pub listen: SocketAddr,
    /// Number of lanes of the default namespace; used at the first start only.
    pub lanes: u16,
    /// Name of this node.
    pub node: String,
    /// Time for running turns when the daemon stops.
    pub grace: Duration,
    /// Ranges of private addresses that deliveries may reach.
    pub allow_destinations: Vec<IpNet>,
    /// The way from senders to the node.
    pub door: Door,
    /// Receivers of alerts.
    pub alerts: Alerts,
    /// Format of the log.
    pub log: Log,
    /// Least severe lines that are logged, for each module.
    pub log_level: Targets,
    /// The settings for people, each with its origin.
    pub settings: Vec<Setting>,
}

/// The way from senders to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// Proxies whose word about the sender is taken.
    pub trusted: Networks,
    /// True if those proxies send a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Number of connections of one address.
    pub per_address_max: usize,
    /// Files of certificate and private key; `None` for plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// A setting that may be displayed to anyone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name of its flag.
    pub name: &'static str,
    /// Its value; never a password or a key.
    pub value: String,
    /// Its origin: the flag, the environment variable, or built in.
    pub from: String,
}

/// Settings in one line, grouped by origin: `lanes 8 (--lanes); listen … (built-in default)`.
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

/// Reason why a configuration is invalid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// There is neither a home directory nor a given one.
    #[error("no data directory: neither XDG_DATA_HOME nor HOME is set")]
    NoDataDir,
    /// The path is too long for the address of a unix socket.
    #[error("{path} is {len} bytes long, a socket's path may have {SOCKET_PATH_MAX}")]
    SocketPath {
        /// Path of the socket.
        path: String,
        /// Its length in bytes.
        len: usize,
    },
    /// Redis is given without a shared database. Hints of other nodes would be about events that this
    /// node does not have.
    #[error("--redis is for nodes that share a server: give --database postgres://… too")]
    RedisAlone,
    /// A header of the PROXY protocol is wanted of nobody.
    #[error("--proxy-protocol is for proxies that are trusted: give --trust-proxy CIDR too")]
    ProxyUntrusted,
    /// A receiver of alerts expects signatures, and there is no secret.
    #[error(
        "--alert signs its posts: give --alert-secret-file FILE or HOOKLANE_ALERT_SECRET, whsec_ and base64"
    )]
    NoAlertSecret,
    /// The text is not the address of a database.
    #[error("--database: {0}")]
    Database(#[from] InvalidDatabase),
    /// The text is not the address of a Redis server.
    #[error("--redis: {0}")]
    Redis(String),
    /// The number of lanes is zero or too large.
    #[error("lane count is 1 to {LANES_MAX}, got {0}")]
    Lanes(u16),
    /// The text cannot be a name in tables and logs.
    #[error("{0:?} is not a node's name: 1 to 63 printable characters without spaces")]
    Node(String),
}

/// Longest path of a unix socket, in bytes, without its terminating zero.
const SOCKET_PATH_MAX: usize = 107;

impl Config {
    /// Checks the configuration.
    ///
    /// # Errors
    /// [`Error`] names the invalid value.
    pub fn checked(self) -> Result<Self, Error> {
        if !(1..=LANES_MAX).contains(&self.lanes) {
            return Err(Error::Lanes(self.lanes));
        }
        let is_server = matches!(self.database, Some(Database::Postgres(_)));
        if self.redis.is_some() && !is_server {
            return Err(Error::RedisAlone);
        }
        if self.door.proxy_protocol && self.door.trusted.is_empty() {
            return Err(Error::ProxyUntrusted);
        }
        if self.alerts.lacks_secret() {
            return Err(Error::NoAlertSecret);
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

/// Name of this machine, the default name of a node.
pub fn host_name() -> String {
    let name = rustix::system::uname();
    match name.nodename().to_str() {
        Ok(name) if !name.is_empty() => name.to_owned(),
        _ => "node".to_owned(),
    }
}

/// The data directory and its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The directory at a given path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// `$XDG_DATA_HOME/hooklane`, or `~/.local/share/hooklane`. `var` reads the environment; a relative
    /// `XDG_DATA_HOME` is ignored, as its specification demands.
    ///
    /// # Errors
    /// [`Error::NoDataDir`] when neither variable is set.
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

    /// File with the id by which other nodes know this directory.
    pub fn word(&self) -> PathBuf {
        self.0.join("hooklane.id")
    }

    /// The SQLite database.
    pub fn database(&self) -> PathBuf {
        self.0.join("hooklane.db")
    }

    /// Socket of the daemon, for those who may open this file.
    pub fn socket(&self) -> PathBuf {
        self.0.join("hooklane.sock")
    }

    /// Lock file, held by the process that has the database open for writing.
    pub fn lock(&self) -> PathBuf {
        self.0.join("hooklane.lock")
    }

    /// Path of the key file that encrypts secrets.
    pub fn secret_key(&self) -> PathBuf {
        self.0.join(crate::store::KEY_FILE)
    }

    /// True if a node has run here and left a log.
    pub fn was_used(&self) -> bool {
        let logs = std::fs::read_dir(self.log()).into_iter().flatten();
        logs.flatten()
            .any(|file| file.metadata().is_ok_and(|meta| meta.len() > 0))
    }

    /// All files in the directory except logs, whether they exist or not.
    pub fn files(&self) -> Vec<PathBuf> {
        let of_database = |end| self.0.join(format!("hooklane.db{end}"));
        let mut files = vec![self.lock(), self.word(), self.socket(), self.secret_key()];
        files.extend(["", "-wal", "-shm"].map(of_database));
        files
    }

    /// Directory of the daily log files.
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
            alerts: Alerts::default(),
            data: DataDir::at("/x"),
            database: None,
            secret_key: None,
            redis: None,
            listen: LISTEN_DEFAULT,
            lanes: LANES_DEFAULT,
            node: host_name(),
            grace: GRACE_DEFAULT,
            door: Door::default(),
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
        let door = Door {
            proxy_protocol: true,
            ..Door::default()
        };
        let untrusted = Config {
            door,
            ..right.clone()
        };
        assert_eq!(untrusted.checked().err(), Some(Error::ProxyUntrusted));
        let data = DataDir::at("/x".repeat(60));
        assert!(Config { data, ..right }.checked().is_err());
    }
}

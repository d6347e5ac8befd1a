//! The address of a database: a SQLite file or a Postgres server. Parsed once. The password reaches
//! only the connection, so a [`Database`] may be displayed anywhere.

use std::fmt::{self, Debug, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::any::AnyConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::text::quoted;

/// Name of our connections in the server's own list (`pg_stat_activity`).
const APPLICATION_NAME: &str = "hooklane";

/// Address of a database.
#[derive(Clone)]
pub enum Database {
    /// A SQLite file, for one node.
    Sqlite(PathBuf),
    /// A Postgres server, for any number of nodes.
    Postgres(Box<Server>),
}

/// A Postgres server with the options to connect to it, for the `Any` driver and for the native one.
#[derive(Clone)]
pub struct Server {
    pub(super) any: AnyConnectOptions,
    pub(super) native: PgConnectOptions,
}

/// A text that is not the address of a database.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a database: {0}")]
pub struct InvalidDatabase(String);

impl FromStr for Database {
    type Err = InvalidDatabase;

    /// Reads `sqlite:PATH`, a path, or `postgres://USER:PASSWORD@HOST:PORT/NAME`.
    fn from_str(text: &str) -> Result<Self, InvalidDatabase> {
        crate::text::check_userinfo(text).map_err(|why| InvalidDatabase(why.into()))?;
        let scheme = text.split_once(':').map(|(scheme, _)| scheme);
        match scheme {
            Some("postgres" | "postgresql") if !text.contains("://") => Err(InvalidDatabase(
                "give postgres://USER@HOST/NAME, with both slashes".into(),
            )),
            Some("postgres" | "postgresql") => {
                Server::parse(text).map(|server| Self::Postgres(server.into()))
            }
            Some("sqlite") => Ok(Self::Sqlite(text["sqlite:".len()..].into())),
            // The error does not repeat the text, because a password may be in it.
            Some(_) if text.contains("://") => Err(InvalidDatabase(
                "give a path, sqlite:PATH or postgres://USER@HOST/NAME".into(),
            )),
            // This is an address without its scheme. A path that looks like one can be written with a
            // leading `./`.
            Some(_) if text.contains('@') && !text.starts_with(['/', '.']) => Err(InvalidDatabase(
                "give a path, sqlite:PATH or postgres://USER@HOST/NAME".into(),
            )),
            _ => Ok(Self::Sqlite(text.into())),
        }
    }
}

/// Refuses a list of hosts: sqlx would take the whole list for one host name.
fn one_host(text: &str) -> Result<(), InvalidDatabase> {
    let (_, rest) = text.split_once("://").unwrap_or(("", text));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (_, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let listed = query.split('&').any(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        matches!(key, "host" | "hostaddr" | "port")
            && (value.contains(',') || value.to_ascii_lowercase().contains("%2c"))
    });
    if hosts.contains(',') || listed {
        return Err(InvalidDatabase(
            "it names several hosts, and one is used: give one address that leads to the primary, \
             such as that of a proxy, or a name that moves with it"
                .into(),
        ));
    }
    Ok(())
}

/// Asks for what is insisted on anyway, or for a server that nodes cannot use.
const SESSION: &str = "target_session_attrs";

fn only_primary(asked: &str) -> Result<(), InvalidDatabase> {
    match asked {
        "any" | "primary" | "read-write" => Ok(()),
        _ => Err(InvalidDatabase(format!(
            "{SESSION} asks for a server that takes no writes, and nodes need the primary: leave it out"
        ))),
    }
}

impl Server {
    fn parse(text: &str) -> Result<Self, InvalidDatabase> {
        // The parser's message names the wrong part and does not repeat the text.
        let wrong = |error: sqlx::Error| {
            let said = error.to_string();
            let said = said.trim_start_matches("error with configuration: ");
            InvalidDatabase(format!(
                "{said}; give postgres://USER:PASSWORD@HOST:PORT/NAME"
            ))
        };
        one_host(text)?;
        let mut any: AnyConnectOptions = text.parse().map_err(wrong)?;
        let url = &mut any.database_url;
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        if let Some((_, asked)) = pairs.iter().find(|(key, _)| key == SESSION) {
            only_primary(asked)?;
            let others = pairs.iter().filter(|(key, _)| key != SESSION);
            url.query_pairs_mut().clear().extend_pairs(others);
        }
        if !url.query_pairs().any(|(key, _)| key == "application_name") {
            url.query_pairs_mut()
                .append_pair("application_name", APPLICATION_NAME);
        }
        // Without a statement cache, each run of a statement leaves another prepared statement in its
        // session.
        let cached = |(key, value): (_, _)| key == "statement-cache-capacity" && value == "0";
        if url.query_pairs().any(cached) {
            let why = "leave statement-cache-capacity=0 out: a pooler is found without it";
            return Err(InvalidDatabase(why.into()));
        }
        let native = url.as_str().parse().map_err(wrong)?;
        Ok(Self { any, native })
    }

    /// Name of the database on the server.
    pub(super) fn name(&self) -> &str {
        let of_user = self.native.get_username();
        self.native.get_database().unwrap_or(of_user)
    }

    /// Flags of Postgres' own programs for this database, for a shell and without a password, in the form
    /// `--host=HOST --port=PORT --username=USER --dbname=NAME`.
    pub fn client_flags(&self) -> String {
        let server = &self.native;
        let host = match server.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => server.get_host().to_owned(),
        };
        format!(
            "--host={} --port={} --username={} --dbname={}",
            quoted(host),
            server.get_port(),
            quoted(server.get_username()),
            quoted(self.name())
        )
    }

    /// Host and port, or the socket path, without user and database.
    pub(super) fn place(&self) -> String {
        match self.native.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", self.native.get_host(), self.native.get_port()),
        }
    }
}

impl Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = match self.any.database_url.password() {
            Some(_) => ":***",
            None => "",
        };
        let (user, place, name) = (self.native.get_username(), self.place(), self.name());
        write!(f, "postgres://{user}{password}@{place}/{name}")
    }
}

impl Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => Display::fmt(&file.display(), f),
            Self::Postgres(server) => Display::fmt(server, f),
        }
    }
}

impl Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Database {
    fn from(file: &P) -> Self {
        Self::Sqlite(file.as_ref().to_owned())
    }
}

impl From<&Database> for Database {
    fn from(database: &Database) -> Self {
        database.clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Database {
        text.parse().unwrap()
    }

    #[test]
    fn a_path_is_a_file_and_a_postgres_url_is_a_server() {
        let file = |text| match parsed(text) {
            Database::Sqlite(file) => file,
            other => panic!("{other}"),
        };
        assert_eq!(file("sqlite:/a/b.db"), Path::new("/a/b.db"));
        assert_eq!(file("/a/b.db"), Path::new("/a/b.db"));
        assert_eq!(file("c:d.db"), Path::new("c:d.db"));
        for server in ["postgres://h/n", "postgresql://h/n"] {
            assert!(matches!(parsed(server), Database::Postgres(_)), "{server}");
        }
        assert!(
            "postgres://h/n?statement-cache-capacity=0"
                .parse::<Database>()
                .is_err()
        );
        assert!("mysql://u:secret@h/n".parse::<Database>().is_err());
    }

    #[test]
    fn several_hosts_are_refused_in_words_and_the_primary_may_be_asked_for() {
        for text in [
            "postgres://u:secret@a,b/n",
            "postgres://u:secret@a:1,b:2/n?target_session_attrs=read-write",
            "postgres:///n?host=a,b",
            "postgres:///n?user=u&host=a%2Cb",
        ] {
            let error = text.parse::<Database>().unwrap_err().to_string();
            assert!(error.contains("several hosts"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        for wanted in ["any", "primary", "read-write"] {
            let text = format!("postgres://u@h/n?target_session_attrs={wanted}&sslmode=disable");
            assert_eq!(parsed(&text).to_string(), "postgres://u@h:5432/n");
        }
        for other in ["standby", "read-only", "prefer-standby", "x"] {
            let text = format!("postgres://u@h/n?target_session_attrs={other}");
            let error = text.parse::<Database>().unwrap_err().to_string();
            assert!(error.contains("need the primary"), "{error}");
        }
        // A comma in a password or a name does not make a list of hosts.
        for text in ["postgres://u:a,b@h/n", "postgres://u@h/a,b"] {
            assert!(text.parse::<Database>().is_ok(), "{text}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        for text in [
            "postgres://u:secret@h:5/n",
            "postgres://u@h:5/n?password=secret",
            "postgres://u:sec/secret@h:5/n",
            "postgres://u:1/secret@h:5/n",
            "postgres://u:sec#secret@h:5/n",
            "postgres://u:1?secret@h:5/n",
            "postgres://u:sec@secret@h:5/n",
            "postgres://u:sec:secret@h:5/n",
            "postgres://secret@u:1/x@h",
            "postgres:/u:secret@h:5/n",
            "postgres//u:secret@h:5/n",
            "Postgres://u:secret@h:5/n",
            "u:secret@h:5/n",
            "postgres://u:secret@h:x/n",
            "postgres://u:secret@h:5/n?sslmode=never",
            "mysql://u:secret@h/n",
        ] {
            let read = text.parse::<Database>();
            let shown = match &read {
                Ok(database) => format!("{database} {database:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("secret"), "{shown}");
        }
        let refused = |text: &str| text.parse::<Database>().unwrap_err().to_string();
        assert!(refused("postgres://u:a/b@h/n").contains("percent-encode user and password"));
        for right in [
            "postgres://u%40x:p%2f%23@h/n",
            "postgres:///n?user=u@x&host=/r",
        ] {
            assert!(matches!(parsed(right), Database::Postgres(_)), "{right}");
        }
        let shown = parsed("postgres://u:secret@h:5/n").to_string();
        assert_eq!(shown, "postgres://u:***@h:5/n");
        let shown = parsed("postgres:///n?user=u&host=/run/x").to_string();
        assert_eq!(shown, "postgres://u@/run/x/n");
    }
}

//! `doctor`: checks everything a node depends on, with a remedy for each problem.
//!
//! A running daemon makes the checks itself; without one the same checks are made from here.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args};
use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

use super::exit;
use super::print::folded;
use super::reach::{Offline, Place, Reach};
use super::top;
use super::{Exit, Printer, Trouble, flags};
use crate::admin::doctor::{Surroundings, clock, examine};
use crate::api::{Check, Grade, Key, KeyState, List, SCHEMA, Severity, Snapshot};
use crate::config::{self, DataDir, Setting};
use crate::domain::time::Timestamp;
use crate::http::edge::Limits;
use crate::store::Database;
use crate::text::{counted, duration, printable_line};

/// Check everything a node needs, and say what to do about each problem
///
/// It asks the daemon, through its socket or at --url. If no daemon runs, it checks from here, as before a first
/// start. It changes nothing and shows no passwords or keys. Exit 0 if nothing fails, also with warnings, else 3.
///
/// Examples:
///   hooklane doctor
///   hooklane doctor --database postgres://me@db/hl --redis redis://cache
///   hooklane doctor -o json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Doctor {
    /// The database that `serve` would use, where no daemon runs [default: a file in the data directory]
    #[arg(long, value_name = "URL", env = "HOOKLANE_DATABASE")]
    #[arg(hide_env_values = true)]
    database: Option<String>,
    /// The Redis that `serve` would use, where no daemon runs [default: memory]
    #[arg(long, value_name = "URL", env = "HOOKLANE_REDIS")]
    #[arg(hide_env_values = true)]
    redis: Option<String>,
    /// The file with the key that encrypts secrets, as `serve` would be given it, where no daemon runs [default:
    /// hooklane.key beside the database, where that is a file]
    #[arg(long, value_name = "FILE", env = "HOOKLANE_SECRET_KEY_FILE")]
    #[arg(hide_env_values = true)]
    secret_key_file: Option<PathBuf>,
    /// Address on which `serve` would listen, if no daemon runs
    #[arg(long, value_name = "ADDRESS", default_value_t = config::LISTEN_DEFAULT)]
    #[arg(env = "HOOKLANE_LISTEN", hide_env_values = true)]
    listen: SocketAddr,
}

/// A key that expires within this time should be replaced.
const KEY_ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// The JSON output.
#[derive(Serialize)]
struct Report {
    schema: u32,
    at: Timestamp,
    problems: usize,
    warnings: usize,
    items: Vec<Check>,
}

impl Doctor {
    /// Runs the checks and prints them.
    pub async fn run(
        self,
        place: &Place,
        mut settings: Vec<Setting>,
        matches: &ArgMatches,
        out: &mut Printer,
    ) -> anyhow::Result<Exit> {
        let around = self.surroundings(place, matches)?;
        let data = around.data.path().display();
        settings.insert(0, flags::setting(matches, "data", data));
        let mut checks = match Reach::find(place, Offline::Never).await {
            Ok(reach) => with_daemon(&reach, &around, place).await,
            Err(error) => {
                let trouble = exit::trouble(error).ok_or_else(|| Trouble::usage("no output"))?;
                if trouble.exit != Exit::Unreachable {
                    return Err(trouble.into());
                }
                let mut checks = vec![no_daemon(&around.data, &trouble)];
                checks.push(self.port());
                checks.extend(examine(&around).await);
                checks
            }
        };
        checks.push(Check::ok("settings", config::told(&settings)));
        checks.push(terminal());
        tell(checks, out)
    }

    fn surroundings(&self, place: &Place, matches: &ArgMatches) -> Result<Surroundings, Trouble> {
        let data = place.data()?;
        let given = self.database.as_ref().map(|text| text.parse());
        let given = given.transpose().map_err(config::Error::Database)?;
        let redis = self.redis.as_ref().map(|text| text.parse()).transpose();
        let database = given.unwrap_or_else(|| Database::from(&data.database()));
        let redis: Option<crate::lanes::redis::Address> = redis
            .map_err(|error: crate::lanes::redis::Error| config::Error::Redis(error.to_string()))?;
        let hints = redis.as_ref().map(ToString::to_string);
        let hints = hints.unwrap_or_else(|| "none".to_owned());
        Ok(Surroundings {
            settings: vec![
                flags::setting(matches, "listen", self.listen),
                flags::setting(matches, "database", &database),
                flags::setting(matches, "redis", hints),
            ],
            database,
            secret_key: self.secret_key_file.clone(),
            redis,
            data,
            connections_max: Limits::default().connections_max,
            certificate: None,
        })
    }

    /// Checks that the port of the daemon is free.
    fn port(&self) -> Check {
        match TcpListener::bind(self.listen) {
            Ok(_) => Check::ok("port", format!("{} is free", self.listen)),
            Err(error) => {
                let text = format!("{}: {error}", self.listen);
                let port = self.listen.port();
                let remedy = format!("see who has it: ss -ltnp 'sport = :{port}'; or --listen");
                Check::fail("port", text, remedy)
            }
        }
    }
}

/// Distinguishes between no daemon, and a daemon that does not answer.
fn no_daemon(data: &DataDir, trouble: &Trouble) -> Check {
    let file = std::fs::File::open(data.lock());
    let is_held = file.is_ok_and(|file| {
        let locked = file.try_lock_shared();
        matches!(locked, Err(std::fs::TryLockError::WouldBlock))
    });
    let message = &trouble.message;
    if !is_held {
        return Check::warn("daemon", format!("none: {message}"), "hooklane serve");
    }
    let pid = std::fs::read_to_string(data.lock()).unwrap_or_default();
    let pid = printable_line(pid.trim()).to_string();
    let text = format!("process {pid} has the data directory and does not answer: {message}");
    Check::fail(
        "daemon",
        text,
        format!("ps -p {pid}; see log/ in the data directory"),
    )
}

async fn with_daemon(reach: &Reach, around: &Surroundings, place: &Place) -> Vec<Check> {
    let snapshot: Snapshot = match reach.get("/v1/admin/snapshot").await {
        Ok(snapshot) => snapshot,
        Err(error) => {
            let silent = Check::fail("daemon", error.to_string(), "hooklane status; its log");
            let mut checks = vec![silent];
            if place.url.is_none() {
                checks.extend(examine(around).await);
            }
            return checks;
        }
    };
    let mut checks = vec![daemon(reach, &snapshot)];
    match reach.get::<List<Check>>("/v1/admin/doctor").await {
        Ok(list) => {
            if place.url.is_some() {
                // The list contains the time at which the daemon sent it.
                let ahead = list.at.as_millis() - Timestamp::now().as_millis();
                checks.push(clock("the daemon", ahead));
            }
            checks.extend(list.items);
        }
        Err(error) => {
            let text = format!("the daemon did not answer the checks: {error}");
            let remedy = match place.url {
                Some(_) => "use an admin key, or the socket",
                None => "hooklane status; its log",
            };
            checks.push(Check::warn("machine", text, remedy));
        }
    }
    checks.push(storage(&snapshot));
    checks.extend(nodes(&snapshot));
    if let Ok(keys) = reach.get::<List<Key>>("/v1/admin/keys").await {
        checks.push(of_keys(&keys.items));
    }
    checks.extend(verdicts(&snapshot));
    checks
}

fn daemon(reach: &Reach, snapshot: &Snapshot) -> Check {
    let up = duration(snapshot.at.since(snapshot.started_at));
    let version = printable_line(&snapshot.version).to_string();
    let node = printable_line(&snapshot.node).to_string();
    let text = format!("{version}, node {node}, up {up}, {}", reach.whereto());
    match version == env!("CARGO_PKG_VERSION") {
        true => Check::ok("daemon", text),
        false => {
            let ours = env!("CARGO_PKG_VERSION");
            let text = format!("{text}; this command is {ours}");
            Check::warn(
                "daemon",
                text,
                "restart the daemon, or call the binary it was started from",
            )
        }
    }
}

fn storage(snapshot: &Snapshot) -> Check {
    let storage = &snapshot.storage;
    let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.1}ms"));
    let (p99, normal) = (storage.commit_p99_ms, storage.commit_normal_ms);
    let text = format!("commit p99 {}, normal {}", ms(p99), ms(normal));
    match (&storage.error, storage.accepting) {
        (Some(error), _) => {
            let text = format!("{text}; {}", printable_line(error));
            Check::fail("commits", text, "see the disk and the database above")
        }
        (None, false) => Check::fail("commits", "events are refused", "hooklane status"),
        (None, true) => match &storage.noted {
            Some(noted) => {
                let error = printable_line(&noted.error);
                let text = format!(
                    "{text}; none from {} to {}: {error}",
                    noted.from, noted.until
                );
                Check::ok("commits", text)
            }
            None => Check::ok("commits", text),
        },
    }
}

/// Lists the nodes, if there are several, and checks that they have the same version.
fn nodes(snapshot: &Snapshot) -> Option<Check> {
    if snapshot.nodes.len() < 2 {
        return None;
    }
    let mut versions: Vec<_> = snapshot
        .nodes
        .iter()
        .filter_map(|n| n.version.as_deref())
        .collect();
    let names: Vec<_> = snapshot
        .nodes
        .iter()
        .map(|n| printable_line(&n.node).to_string())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    let nodes = counted(snapshot.nodes.len() as u64, "node", "nodes");
    let text = format!("{nodes}: {}", names.join(", "));
    Some(match versions.len() {
        0 | 1 => Check::ok("nodes", text),
        _ => {
            let versions = printable_line(&versions.join(" and ")).to_string();
            let text = format!("{text}; of versions {versions}");
            Check::warn(
                "nodes",
                text,
                "bring all to the newest, one after the other",
            )
        }
    })
}

fn of_keys(keys: &[Key]) -> Check {
    let now = Timestamp::now();
    let good = keys.iter().filter(|key| key.state == KeyState::Ok);
    let ends = |key: &&Key| {
        key.expires_at
            .is_some_and(|at| at.since(now) < KEY_ENDS_SOON)
    };
    let soon: Vec<_> = good.clone().filter(ends).collect();
    let text = counted(good.count() as u64, "good key", "good keys");
    match soon.first() {
        None => Check::ok("keys", text),
        Some(key) => {
            let left = key.expires_at.unwrap_or(now).since(now);
            let (name, kind) = (&key.name, key.kind.word());
            let more = match soon.len() {
                1 => String::new(),
                more => format!(" (+{} more)", more - 1),
            };
            let text = format!("{name} ({kind}) expires in {}{more}", duration(left));
            Check::warn("keys", text, "hooklane keys create")
        }
    }
}

/// The verdicts, as `status` shows them.
fn verdicts(snapshot: &Snapshot) -> Vec<Check> {
    let found = snapshot.verdicts.iter().map(|verdict| {
        let text = printable_line(&verdict.text).to_string();
        let text = format!("{}  {text}", verdict.class.word());
        let remedy = match &verdict.stream {
            Some(stream) => format!("hooklane why {}", crate::text::quoted(stream)),
            None => "hooklane status".to_owned(),
        };
        match (verdict.class.is_well(), verdict.severity) {
            (true, Severity::Fine) => Check::ok("streams", text),
            (false, Severity::Trouble) => Check::fail("streams", text, remedy),
            _ => Check::warn("streams", text, remedy),
        }
    });
    found.collect()
}

fn terminal() -> Check {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let term = var("TERM").unwrap_or_else(|| "no TERM".to_owned());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(var);
    let locale = locale.unwrap_or_else(|| "C".to_owned());
    let (term, locale) = (printable_line(&term), printable_line(&locale));
    let dashboard = match top::has_terminal() {
        true => "",
        false => "; top prints one plain picture here",
    };
    Check::ok("terminal", format!("{term}, {locale}{dashboard}"))
}

fn tell(checks: Vec<Check>, out: &mut Printer) -> anyhow::Result<Exit> {
    let of = |grade| checks.iter().filter(|check| check.grade == grade).count();
    let report = Report {
        schema: SCHEMA,
        at: Timestamp::now(),
        problems: of(Grade::Fail),
        warnings: of(Grade::Warn),
        items: checks,
    };
    if !out.object(&report)? {
        for check in &report.items {
            out.line(&line(check, out.room()))?;
        }
        let (problems, warnings) = (report.problems as u64, report.warnings as u64);
        out.flush()?;
        out.say(format_args!(
            "{}, {}. To paste: hooklane doctor -o json   # keys and passwords are masked",
            counted(problems, "problem", "problems"),
            counted(warnings, "warning", "warnings"),
        ))?;
    }
    Ok(match report.problems {
        0 => Exit::Done,
        _ => Exit::Unfinished,
    })
}

/// Column at which remedies begin, unless the text before is longer.
const REMEDY_AT: usize = 72;

/// Column at which findings begin.
const TEXT_AT: usize = 17;

/// Mark before a remedy that stands below its finding.
const REMEDY_MARK: &str = "-> ";

/// One line such as `warn  keys       ops-ana expires in 6 days`, with the remedy beside it, or below
/// it when there is no room. A long finding and a long remedy are wrapped in their columns.
fn line(check: &Check, room: Option<u16>) -> String {
    let text = column(&printable_line(&check.text).to_string(), TEXT_AT, room);
    let found = format!("{:<5} {:<10} {text}", check.grade.word(), check.name);
    let Some(remedy) = &check.remedy else {
        return found;
    };
    let remedy = printable_line(remedy);
    let beside = format!("{found:<REMEDY_AT$} {remedy}");
    let has_room = room.is_none_or(|room| beside.width() <= usize::from(room));
    match has_room && found.width() < REMEDY_AT {
        true => beside,
        false => {
            let remedy = column(&remedy.to_string(), TEXT_AT + REMEDY_MARK.len(), room);
            format!("{found}\n{:TEXT_AT$}{REMEDY_MARK}{remedy}", "")
        }
    }
}

/// Wraps a text that begins at column `at`, so that each further line begins there too.
fn column(text: &str, at: usize, room: Option<u16>) -> String {
    let Some(room) = room else {
        return text.to_owned();
    };
    let text = folded(text, usize::from(room).saturating_sub(at));
    text.replace('\n', &format!("\n{:at$}", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_stands_beside_what_is_wrong_where_that_has_room() {
        let check = Check::warn(
            "keys",
            "ops-ana (admin) expires in 6 days",
            "hooklane keys create",
        );
        let beside = "warn  keys       ops-ana (admin) expires in 6 days                       hooklane keys create";
        assert_eq!(line(&check, None), beside);
        let below = "warn  keys       ops-ana (admin) expires in 6 days\n                 -> hooklane keys create";
        assert_eq!(line(&check, Some(80)), below);
        let long = Check::fail("streams", "x".repeat(90), "hooklane status");
        assert!(line(&long, None).ends_with("x\n                 -> hooklane status"));
        let long = Check::fail("streams", "some words ".repeat(12), "hooklane status");
        let lines = line(&long, Some(80));
        assert!(lines.lines().all(|line| line.width() <= 80), "{lines}");
        assert_eq!(lines.matches("words").count(), 12);

        let advised = Check::warn("disk", "some words", "some words ".repeat(12).trim());
        let lines = line(&advised, Some(80));
        assert!(lines.lines().all(|line| line.width() <= 80), "{lines}");
        let mut below = lines.lines().skip(2);
        let at = |line: &str| line.len() - line.trim_start().len();
        assert!(
            below.all(|line| at(line) == TEXT_AT + REMEDY_MARK.len()),
            "{lines}"
        );
        assert!(lines.lines().count() > 2 && !line(&advised, None).contains("words\n     "));
    }
}

//! `keys`: creates, lists and revokes access keys.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use http::Method;

use super::print::{Columns, Row, Stake};
use super::reach::{Offline, Reach, with_query};
use super::{Exit, Printer, Trouble};
use crate::api::{Key, KeySpec, KeyState, List, NewKey};
use crate::domain::key::{KeyId, Kind};
use crate::domain::name::Name;
use crate::domain::rate::{RATE_MAX, Rate};
use crate::domain::time::{Timestamp, millis, parse_duration};
use crate::text;

/// Make, list and revoke access keys
#[derive(Subcommand)]
pub enum Keys {
    Create(Create),
    List(All),
    Revoke(Revoke),
}

impl Keys {
    /// Access that the verb needs without a daemon: only `create` creates a database.
    pub fn offline(&self) -> Offline {
        match self {
            Self::Create(_) => Offline::Make,
            _ => Offline::Open,
        }
    }

    /// Runs the verb.
    pub async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        match self {
            Self::Create(create) => create.run(reach, out).await,
            Self::List(list) => list.run(reach, out).await,
            Self::Revoke(revoke) => revoke.run(reach, out).await,
        }
    }
}

const KEYS: &str = "/v1/admin/keys";

/// Time without use after which a key is marked.
const STALE: Duration = Duration::from_secs(90 * 86_400);

/// Remaining lifetime below which a key is marked.
const SOON: Duration = Duration::from_secs(14 * 86_400);

impl Row for Key {
    const HEADER: &'static [&'static str] = &[
        "ID",
        "NAME",
        "TYPE",
        "HOOK",
        "RATE",
        "CREATED",
        "BY",
        "LAST USED",
        "EXPIRES",
        "STATE",
    ];
    const RARE: &'static [&'static str] = &["RATE"];
    const DROPS: &'static [&'static str] = &["CREATED", "BY", "EXPIRES", "RATE", "HOOK"];

    fn cells(&self) -> Vec<String> {
        let now = Timestamp::now();
        vec![
            self.id.to_string(),
            self.name.to_string(),
            self.kind.word().to_owned(),
            scope(self),
            rate(self),
            day(self.created_at),
            self.created_by.clone().unwrap_or_else(|| "-".to_owned()),
            last_used(self, now),
            self.expires_at.map_or_else(|| "never".into(), day),
            state(self, now),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

fn scope(key: &Key) -> String {
    match (&key.hook, key.kind, key.state) {
        (Some(hook), ..) => match &key.consume {
            Some(handler) => format!("{hook} -> {handler}"),
            None => hook.to_string(),
        },
        (None, Kind::Admin, _) | (None, _, KeyState::Revoked) => "-".to_owned(),
        (None, ..) => "all".to_owned(),
    }
}

fn rate(key: &Key) -> String {
    match (key.rate, key.burst) {
        (None, _) => "-".to_owned(),
        (Some(rate), Some(burst)) if burst != rate.requests() => format!("{rate} burst {burst}"),
        (Some(rate), _) => rate.to_string(),
    }
}

fn last_used(key: &Key, now: Timestamp) -> String {
    match (key.last_used_at, &key.last_used_from) {
        (None, _) => "never".to_owned(),
        (Some(at), None) => text::ago(now.since(at)),
        (Some(at), Some(from)) => format!("{} {from}", text::ago(now.since(at))),
    }
}

fn state(key: &Key, now: Timestamp) -> String {
    match key.state {
        KeyState::Expired => "expired".to_owned(),
        KeyState::Revoked => "revoked".to_owned(),
        KeyState::Ok => match key.expires_at.map(|at| at.since(now)) {
            Some(left) if left < SOON => format!("{} left", text::duration(left)),
            _ if is_stale(key, now) => "stale".to_owned(),
            _ => "ok".to_owned(),
        },
    }
}

fn is_stale(key: &Key, now: Timestamp) -> bool {
    now.since(key.last_used_at.unwrap_or(key.created_at)) >= STALE
}

fn day(at: Timestamp) -> String {
    at.to_string().chars().take("2026-11-23".len()).collect()
}

/// Permissions of a key.
#[derive(Clone, Copy, ValueEnum)]
enum Type {
    /// Post events
    Write,
    /// Read states and events
    Read,
    /// All that an operator may do
    Admin,
}

impl From<Type> for Kind {
    fn from(type_: Type) -> Self {
        match type_ {
            Type::Write => Self::Write,
            Type::Read => Self::Read,
            Type::Admin => Self::Admin,
        }
    }
}

/// Make an access key; stdout gets the key alone, once
///
/// Examples:
///   hooklane keys create --type write --hook orders --name shop
///   hooklane keys create --type read --all-hooks --name grafana --out grafana.key
///   hooklane keys create --type write --all-hooks --name noisy --rate 100/s
///   hooklane keys create --type read --hook jobs --consume worker --name pool
///   hooklane keys create --type admin --name ops-ana
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Create {
    /// Its rights: write posts events, read reads states and events, admin does everything
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Type,
    /// The hook it is for
    #[arg(long, value_name = "NAME", conflicts_with = "all_hooks")]
    hook: Option<Name>,
    /// For every hook, also those made later
    #[arg(long)]
    all_hooks: bool,
    /// It may also take deliveries of this pull handler of the hook; read keys only
    #[arg(long, value_name = "HANDLER", requires = "hook")]
    consume: Option<Name>,
    /// Its name, for people
    #[arg(long)]
    name: Name,
    /// Lifetime, such as 90d [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    expires: Option<Duration>,
    /// Requests that it may send to one node, such as 100/s or 600/m; more are answered 429 [default: any number]
    #[arg(long, value_name = "N/s|N/m")]
    rate: Option<Rate>,
    /// Requests that may come at once [default: the number of the rate]
    #[arg(long, value_name = "N", requires = "rate")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    burst: Option<u32>,
    /// Write it to a new file that only you can read, instead of to stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Create {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let spec = self.spec()?;
        // Opened before the key is created, so that a failure does not lose the key's text.
        let file = self.out.as_deref().map(private).transpose()?;
        let made: NewKey = match reach.call(Method::POST, KEYS, Some(&spec)).await {
            Ok(made) => made,
            Err(error) => {
                if let Some(path) = &self.out {
                    // The file is empty; leaving it behind matters less than the error.
                    let _ = std::fs::remove_file(path);
                }
                return Err(error.into());
            }
        };
        if let Err(error) = self.hand_over(&made, file, out) {
            return Err(self.take_back(&made.facts, &error, reach).await.into());
        }
        self.tell(&made.facts, out)?;
        Ok(Exit::Done)
    }

    /// Writes the key's text to its destination and flushes it, because it cannot be read again.
    fn hand_over(
        &self,
        made: &NewKey,
        file: Option<File>,
        out: &mut Printer,
    ) -> std::io::Result<()> {
        if let Some(mut file) = file {
            writeln!(file, "{}", made.text)?;
            return file.sync_all();
        }
        if !out.object(made)? {
            out.line(&made.text)?;
        }
        out.flush()
    }

    /// Revokes a key whose text could not be handed over.
    async fn take_back(&self, key: &Key, error: &std::io::Error, reach: &Reach) -> Trouble {
        let to = match &self.out {
            Some(path) => {
                // The file may contain part of the key.
                let _ = std::fs::remove_file(path);
                path.display().to_string()
            }
            None => "stdout".to_owned(),
        };
        let reason = Some("its text could not be handed over".to_owned());
        let path = with_query(&format!("{KEYS}/{}", key.id), &[("reason", reason)]);
        let revoked = reach.call::<Key, ()>(Method::DELETE, &path, None).await;
        let message = format!("the key could not be written to {to}: {error}");
        let trouble = Trouble::new(Exit::Failed, "not_handed_over", message);
        match revoked {
            Ok(_) => trouble.fact("key", format!("{} ({}) is revoked again", key.name, key.id)),
            Err(error) => trouble
                .fact(
                    "key",
                    format!(
                        "{} ({}) is good, and nobody has it: {error}",
                        key.name, key.id
                    ),
                )
                .fact("revoke", format!("hooklane keys revoke {}", key.id)),
        }
    }

    fn spec(&self) -> Result<KeySpec, Trouble> {
        let kind = Kind::from(self.kind);
        let given = self.hook.is_some() || self.all_hooks;
        match kind {
            Kind::Admin if given => return Err(Trouble::usage("an admin key takes no hook")),
            Kind::Write | Kind::Read if !given => {
                return Err(Trouble::usage("which hooks is the key for?")
                    .fact("one", "--hook NAME")
                    .fact("all", "--all-hooks"));
            }
            _ if self.consume.is_some() && (kind != Kind::Read || self.hook.is_none()) => {
                return Err(Trouble::usage("--consume is for a read key of one hook")
                    .fact("give", "--type read --hook NAME --consume HANDLER"));
            }
            Kind::Read | Kind::Admin if self.rate.is_some() => {
                return Err(Trouble::usage("only a write key takes a rate"));
            }
            _ => {}
        }
        Ok(KeySpec {
            kind,
            hook: self.hook.clone(),
            consume: self.consume.clone(),
            name: self.name.clone(),
            expires_in_ms: self.expires.map(|long| millis(long).unsigned_abs()),
            rate: self.rate,
            burst: self.burst,
        })
    }

    fn tell(&self, key: &Key, out: &mut Printer) -> std::io::Result<()> {
        let hooks = match scope(key).as_str() {
            "-" => String::new(),
            "all" => ", all hooks".to_owned(),
            hook => format!(", hook {hook}"),
        };
        let expires = key.expires_at.map_or_else(
            || "never expires".into(),
            |at| format!("expires {}", day(at)),
        );
        let rate = key
            .rate
            .map_or_else(String::new, |_| format!("   {}", rate(key)));
        let kind = key.kind.word();
        let once = match &self.out {
            Some(path) => format!("in {}; only a hash is stored here", path.display()),
            None => {
                "it is shown only now, because only a hash is stored. --out FILE writes it to a private file"
                    .into()
            }
        };
        out.facts(&[
            (
                "key",
                format!(
                    "{} ({})   {kind}{hooks}{rate}   {expires}",
                    key.name, key.id
                ),
            ),
            ("warning", once),
            ("undo", format!("hooklane keys revoke {}", key.id)),
        ])
    }
}

/// Creates a file that only its owner can read.
fn private(path: &Path) -> Result<File, Trouble> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| {
        let message = format!("cannot make {}: {error}. No key was made", path.display());
        Trouble::new(Exit::Usage, "no_file", message)
    })
}

/// List access keys; their text is stored nowhere
///
/// Uses are stored once a minute: LAST USED is exact for what the node that answers has seen, and up to a
/// minute old for what others have seen, or for one that was killed.
///
/// Examples:
///   hooklane keys list
///   hooklane keys list --stale -o names
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct All {
    /// Only good keys that were not used for 90 days
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    columns: Columns,
}

impl All {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let mut keys: List<Key> = reach.get(KEYS).await?;
        if self.stale {
            let now = Timestamp::now();
            let stale = |key: &Key| key.state == KeyState::Ok && is_stale(key, now);
            keys.items.retain(stale);
        }
        out.list(&keys, self.columns)?;
        Ok(Exit::Done)
    }
}

/// End a key for good; what uses it is refused at once
///
/// Examples:
///   hooklane keys revoke k_7Q2mC0vX --reason 'left in a chat'
///   hooklane keys list --stale -o names | xargs -n1 hooklane keys revoke --yes
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Revoke {
    /// The key's id, k_ and eight digits
    #[arg(value_parser = key_id)]
    id: KeyId,
    /// Reason, for the other operators
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

fn key_id(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text)
        .ok_or_else(|| "it is k_ and eight digits, as hooklane keys list shows".into())
}

impl Revoke {
    async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let here = reach.here().await?;
        let keys: List<Key> = reach.get(KEYS).await?;
        let Some(key) = keys.items.iter().find(|key| key.id == self.id) else {
            let ids: Vec<_> = keys.items.iter().map(|key| key.id.to_string()).collect();
            let ids = ids.iter().map(String::as_str);
            return Err(Trouble::missing("key", &self.id.to_string(), ids).into());
        };
        if key.state == KeyState::Revoked {
            out.say(format_args!("{} is revoked already", self.id))?;
            return Ok(Exit::Done);
        }
        let now = Timestamp::now();
        let what = format!("ends key {} for good", key.name);
        out.is_answered(&what, &Stake::Moderate)?;
        out.say(format_args!(
            "revoke key {} ({})   {}",
            key.name,
            key.id,
            reach.planned(&here)
        ))?;
        out.facts(&[
            ("  may", format!("{}, hook {}", key.kind.word(), scope(key))),
            ("  used", last_used(key, now)),
            ("  back", "none: make another key".to_owned()),
        ])?;
        if !out.confirm(&format!("Revoke {}?", key.name), &what, &Stake::Moderate)? {
            return Ok(Exit::Failed);
        }
        let path = with_query(&format!("{KEYS}/{}", self.id), &[("reason", self.reason)]);
        // Not refused when the configuration has changed meanwhile, because a leaked key must be
        // revoked.
        let revoked: Key = reach.call(Method::DELETE, &path, None::<&()>).await?;
        out.say(format_args!("revoked  {} ({})", revoked.name, revoked.id))?;
        out.object(&revoked)?;
        Ok(Exit::Done)
    }
}

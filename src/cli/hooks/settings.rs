//! The flags that `create` and `edit` share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use super::file;
use crate::api::{ForwardEdit, HookEdit, PullEdit, VerifyEdit};
use crate::cli::Trouble;
use crate::cli::flags::{self, OrNone};
use crate::domain::filter::{Filter, Rule};
use crate::domain::forward::{Batch, Begin, Destination};
use crate::domain::handshake::{Handshake, InvalidHandshake};
use crate::domain::hook::{Debounce, DedupeBy, OnError, OrderBy, Unordered};
use crate::domain::keep::Keep;
use crate::domain::name::Name;
use crate::domain::network::{self, InvalidRange, Networks};
use crate::domain::place::Place;
use crate::domain::rate::Rate;
use crate::domain::time::{millis, parse_duration};
use crate::domain::verify::{InvalidScheme, Scheme};
use crate::domain::version::Late;

/// Configuration of a hook; `create` and `edit` take the same flags.
#[derive(Args, Default)]
pub struct Settings {
    /// The namespace whose lanes its streams use [default: default]
    #[arg(long, value_name = "NAME")]
    namespace: Option<Name>,

    /// The ordering key, which divides its events into streams: body:/JSON/POINTER, header:NAME, form:NAME, or none
    /// for one stream
    #[arg(long, value_name = "RULE")]
    order_by: Option<OrderBy>,

    /// Events without an ordering key: refuse (422), or keep in the hook's own stream
    #[arg(long, value_name = "refuse|keep", value_parser = flags::unordered)]
    unordered: Option<Unordered>,

    /// Value that identifies a repeat: header:NAME, body:/JSON/POINTER, form:NAME, or standard for the delivery id of the provider
    /// that --verify names, then the headers Idempotency-Key and webhook-id, which also count where the place has nothing
    /// [default: standard]
    #[arg(long, value_name = "RULE")]
    dedupe_by: Option<DedupeBy>,

    #[command(flatten)]
    senders: Senders,

    #[command(flatten)]
    order: Order,

    /// Reducer that turns events into a state: latest, merge, patch, append:N, count or a FILE.js
    #[arg(long, value_name = "NAME|FILE.js")]
    reduce: Option<String>,

    /// An event that cannot be folded: hold its stream, or skip it to the dead letters
    #[arg(long, value_name = "hold|skip", value_parser = flags::on_error)]
    on_error: Option<OnError>,

    /// Gather events into one turn: until it is quiet for QUIET, for LONGEST at most [default: 10 times QUIET]
    #[arg(long, value_name = "QUIET[,LONGEST]", value_parser = flags::debounce)]
    debounce: Option<Debounce>,

    /// Only events with this pattern at a place, such as '/type=invoice.*' or header:X-GitHub-Event=push; others are
    /// passed in order. May be given often: one pattern of each place must match
    #[arg(long, value_name = "PLACE=PATTERN")]
    only: Vec<Rule>,

    /// The largest body it accepts, such as 64KiB [default: 1MiB]
    #[arg(long, value_name = "BYTES", value_parser = flags::bytes)]
    body_max: Option<u64>,

    /// Deliver each event to NAME=URL, in order, the next one after a 2xx; may be given often. In `edit`, NAME alone
    /// names a handler to change
    #[arg(long = "forward", value_name = "NAME=URL", value_parser = flags::forward)]
    forwards: Vec<(Name, Option<String>)>,

    #[command(flatten)]
    deliveries: Deliveries,

    /// Keep each event for consumers of this name that ask for it, in order, the next one after it is acknowledged.
    /// May be given often
    #[arg(long = "pull", value_name = "NAME")]
    pulls: Vec<Name>,

    /// Time for which a delivery of --pull stays open unless its consumer says otherwise, 12h at most [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "pulls")]
    lease: Option<Duration>,

    /// Retention of events after every handler has passed them: a time such as 30d, an amount such as 10GB, or
    /// forever [default: forever]
    #[arg(long, value_name = "TIME|AMOUNT|forever")]
    keep: Option<Keep>,
}

/// The provider's order.
#[derive(Args, Default)]
struct Order {
    /// The version that the provider gives its events, a number or an RFC 3339 time: body:/JSON/POINTER, header:NAME,
    /// form:NAME, or none. An event whose version is lower than one before it in its stream is late [default: none]
    #[arg(long, value_name = "RULE", value_parser = flags::version_by)]
    version_by: Option<OrNone<Place>>,

    /// Late events: apply them like others, mark them for reducers and receivers, or skip them [default: mark]
    #[arg(long, value_name = "apply|mark|skip")]
    late: Option<Late>,

    /// Hold each event back this long, so that lower versions can still come before it: such as 5s, 1h at most, or none.
    /// The 202 then has no seq yet [default: none]
    #[arg(long, value_name = "DURATION", value_parser = flags::reorder_window)]
    reorder_window: Option<OrNone<Duration>>,
}

impl Order {
    fn window_ms(&self) -> Option<Option<u64>> {
        let OrNone(window) = self.reorder_window.as_ref()?;
        Some(window.map(|window| millis(window).unsigned_abs()))
    }
}

/// Delivery of the forward handlers that the command names.
#[derive(Args, Default)]
struct Deliveries {
    /// The time for one request of --forward, 10s at most [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "forwards")]
    request_timeout: Option<Duration>,

    /// Tries of one event of --forward or --pull before --on-error decides; 0 tries for ever [default: for ever]
    #[arg(long, value_name = "COUNT")]
    attempts: Option<u32>,

    /// Requests in flight at once from one node [default: 64]
    #[arg(long, value_name = "COUNT", requires = "forwards")]
    max_in_flight: Option<u32>,

    /// Requests from one node, such as 50/s [default: no limit]
    #[arg(long, value_name = "RATE", requires = "forwards")]
    rate: Option<Rate>,

    /// Consecutive events of one stream in one request, such as 100 or 100,256KiB [default: one event]
    #[arg(long, value_name = "EVENTS[,BYTES]", requires = "forwards")]
    batch: Option<Batch>,

    /// Of the events that --debounce gathered, deliver the newest alone
    #[arg(long, requires = "forwards")]
    coalesce: bool,

    /// First event of a new handler of --forward or --pull [default: beginning]
    #[arg(long, value_name = "beginning|now", value_parser = flags::begin)]
    from: Option<Begin>,
}

/// Verification of the sender
#[derive(Args, Default)]
struct Senders {
    /// Verify the signatures of the sender, which then needs no write key: stripe, github, shopify, slack, twilio,
    /// gitlab, standard, paddle, square, hubspot, linear, sendgrid, hmac:PARTS, or none [default: none]
    #[arg(long, value_name = "SCHEME", value_parser = verified)]
    verify: Option<Verified>,

    /// The URL that the sender has, for twilio, square and hubspot, which sign it
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,

    /// Largest difference between the sender's clock and ours [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    tolerance: Option<Duration>,

    /// Answer the test of the URL by the provider: slack (always with --verify slack), meta, graph, zoom, twitch,
    /// x, or probe for a HEAD or GET; or none [default: none]
    #[arg(long, value_name = "NAME", value_parser = asked)]
    handshake: Option<Asked>,

    /// Addresses from which requests are accepted, as a CIDR range such as 192.0.2.0/24; requests from elsewhere are 403.
    /// May be given often; any ends it [default: any]
    #[arg(long, value_name = "CIDR|any", value_parser = allowed)]
    allow_from: Vec<Allowed>,

    /// A file with the secret of the sender; - for stdin. In a command with --forward and without --verify, the secret
    /// that signs its deliveries, whsec_… [default for --forward: one is made and shown once]
    #[arg(long, value_name = "FILE", conflicts_with = "secret_env")]
    secret_file: Option<PathBuf>,

    /// An environment variable with the same
    #[arg(long, value_name = "VARIABLE")]
    secret_env: Option<String>,
}

/// Value of `--verify`: a scheme, or `none`.
#[derive(Clone, Debug)]
struct Verified(Option<Scheme>);

/// Parses `--verify`.
fn verified(text: &str) -> Result<Verified, InvalidScheme> {
    match text {
        "none" => Ok(Verified(None)),
        text => text.parse().map(|scheme| Verified(Some(scheme))),
    }
}

/// Value of `--handshake`: a handshake, or `none`.
#[derive(Clone, Copy, Debug)]
struct Asked(Option<Handshake>);

/// Parses `--handshake`.
fn asked(text: &str) -> Result<Asked, InvalidHandshake> {
    match text {
        "none" => Ok(Asked(None)),
        text => text.parse().map(|handshake| Asked(Some(handshake))),
    }
}

/// Value of `--allow-from`: a range of addresses, or `any`.
#[derive(Clone, Copy, Debug)]
struct Allowed(Option<IpNet>);

/// Parses `--allow-from`.
fn allowed(text: &str) -> Result<Allowed, InvalidRange> {
    match text {
        "any" => Ok(Allowed(None)),
        text => network::range(text).map(|range| Allowed(Some(range))),
    }
}

/// The ranges of all `--allow-from`; `None` without one.
fn allow_from(given: &[Allowed]) -> Result<Option<Networks>, Trouble> {
    let ranges: Vec<_> = given.iter().filter_map(|Allowed(range)| *range).collect();
    match (given.len(), ranges.len()) {
        (0, _) => Ok(None),
        (given, ranges) if ranges > 0 && ranges < given => Err(Trouble::usage(
            "--allow-from any accepts every address: give it alone, or the ranges without it",
        )),
        _ => Ok(Some(ranges.into())),
    }
}

/// Checks that settings of the sender come only with verification.
pub fn needs_scheme(edit: &HookEdit, verifies: bool) -> Result<(), Trouble> {
    match &edit.verify {
        Some(Some(change)) if change.scheme.is_none() && !verifies => Err(Trouble::usage(
            "a secret, --public-url and --tolerance are for senders that sign: give --verify SCHEME with them",
        )),
        _ => Ok(()),
    }
}

impl Senders {
    /// The edit of the hook's verification; `secret` is the sender's.
    fn edit(self, secret: Option<String>) -> Option<Option<VerifyEdit>> {
        let edit = VerifyEdit {
            scheme: match self.verify {
                Some(Verified(None)) => return Some(None),
                Some(Verified(scheme)) => scheme,
                None => None,
            },
            tolerance_ms: self.tolerance.map(|time| millis(time).unsigned_abs()),
            public_url: self.public_url,
            secret,
        };
        (edit != VerifyEdit::default()).then_some(Some(edit))
    }
}

impl Settings {
    /// The forward handlers on the command line, each with its settings.
    fn forward_edits(
        &self,
        secret: Option<&String>,
        only: Option<&Filter>,
    ) -> Result<Vec<ForwardEdit>, Trouble> {
        let given = &self.deliveries;
        let parsed = |url: &String| url.parse::<Destination>();
        let edit = |name: &Name, url| ForwardEdit {
            name: Some(name.clone()),
            url,
            timeout_ms: given
                .request_timeout
                .map(|time| millis(time).unsigned_abs()),
            attempts: given.attempts,
            on_error: self.on_error,
            max_in_flight: given.max_in_flight,
            rate: given.rate,
            batch: given.batch,
            debounce: self.debounce,
            coalesce: given.coalesce.then_some(true),
            only: only.cloned(),
            from: given.from,
            secret: secret.cloned(),
        };
        let edits = self.forwards.iter().map(|(name, url)| {
            let url = url.as_ref().map(parsed).transpose();
            let url = url.map_err(|error| Trouble::usage(format!("--forward {name}: {error}")))?;
            Ok(edit(name, url))
        });
        edits.collect()
    }

    /// The pull handlers on the command line, each with its settings.
    fn pull_edits(&self, only: Option<&Filter>) -> Vec<PullEdit> {
        let edits = self.pulls.iter().map(|name| PullEdit {
            name: name.clone(),
            attempts: self.deliveries.attempts,
            on_error: self.on_error,
            lease_ms: self.lease.map(|lease| millis(lease).unsigned_abs()),
            only: only.cloned(),
            from: self.deliveries.from,
        });
        edits.collect()
    }

    /// The edit of the flags. `ends_filter` removes the filter of the handlers on the command line.
    pub fn edit(self, ends_filter: bool) -> Result<HookEdit, Trouble> {
        let senders = &self.senders;
        let secret = file::secret(
            senders.secret_file.as_deref(),
            senders.secret_env.as_deref(),
        )?;
        let signs = !self.forwards.is_empty() && senders.verify.is_none();
        let (signing, verifying) = if signs {
            (secret, None)
        } else {
            (None, secret)
        };
        let only = Filter::new(self.only.clone());
        let only = only.map_err(|error| Trouble::usage(format!("--only: {error}")))?;
        let only = Some(only).filter(|only| ends_filter || !only.takes_all());
        let forward = self.forward_edits(signing.as_ref(), only.as_ref())?;
        let pull = self.pull_edits(only.as_ref());
        let delivers = !forward.is_empty() || !pull.is_empty();
        let given = &self.deliveries;
        if !delivers && (given.attempts.is_some() || given.from.is_some()) {
            return Err(
                Trouble::usage("--attempts and --from are for handlers that deliver")
                    .fact("give", "--forward NAME=URL or --pull NAME with them"),
            );
        }
        // Failure policy, filter and debounce apply to the handlers on the command line, else to the reducer.
        let reduces = self.reduce.is_some() || !delivers;
        let debounces = self.reduce.is_some() || forward.is_empty();
        Ok(HookEdit {
            forward,
            remove_forward: Vec::new(),
            pull,
            remove_pull: Vec::new(),
            namespace: self.namespace,
            order_by: self.order_by,
            unordered: self.unordered,
            dedupe_by: self.dedupe_by,
            handshake: self.senders.handshake.map(|Asked(handshake)| handshake),
            reorder_window_ms: self.order.window_ms(),
            version_by: self.order.version_by.map(|OrNone(place)| place),
            late: self.order.late,
            allow_from: allow_from(&self.senders.allow_from)?,
            verify: self.senders.edit(verifying),
            reduce: self
                .reduce
                .map(|text| file::reducer(&text, Path::new("")))
                .transpose()?
                .map(Some),
            on_error: self.on_error.filter(|_| reduces),
            debounce: self.debounce.filter(|_| debounces).map(Some),
            only: only.filter(|_| reduces),
            body_max: self.body_max,
            keep: self.keep,
        })
    }
}

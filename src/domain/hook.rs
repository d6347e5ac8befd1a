//! A hook and its handlers: what is received, how it is ordered, and what consumes it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::event::StreamId;
use super::filter::Filter;
use super::forward::Forward;
use super::handshake::Handshake;
use super::keep::Keep;
use super::name::Name;
use super::network::Networks;
use super::place::Place;
use super::position::Seq;
use super::pull::Pull;
use super::secret::Secrets;
use super::time::Timestamp;
use super::verify::Verify;
use super::version::Versioning;

/// Number of a hook in the database; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookId(pub i64);

/// Number of a handler in the database; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandlerId(pub i64);

/// Default size limit of a body, in bytes.
pub const BODY_MAX_DEFAULT: u64 = 1024 * 1024;

/// Largest size limit of a body that a hook can be configured with, in bytes.
pub const BODY_MAX_LIMIT: u64 = 32 * 1024 * 1024;

/// A configured receiver of webhooks.
#[derive(Clone, Debug)]
pub struct Hook {
    /// Its number.
    pub id: HookId,
    /// Its name, unique among existing hooks.
    pub name: Name,
    /// The namespace whose lanes its streams use.
    pub namespace: Name,
    /// Rule that divides its events into streams.
    pub order_by: OrderBy,
    /// Treatment of events without an ordering key.
    pub unordered: Unordered,
    /// Rule that recognizes a repeated event.
    pub dedupe_by: DedupeBy,
    /// Verification of the sender's signatures; `None` if the hook takes write keys only.
    pub verify: Option<Verify>,
    /// The test of the URL that it answers.
    pub handshake: Option<Handshake>,
    /// Rule for the provider's order; `None` orders events by arrival alone.
    pub versioning: Option<Versioning>,
    /// Number of that rule; rises when its place changes.
    pub version_rule: u32,
    /// Addresses from which it accepts requests; empty for all.
    pub allow_from: Networks,
    /// Size limit of a body, in bytes.
    pub body_max: u64,
    /// Retention of events that every handler has passed.
    pub keep: Keep,
    /// Handlers that consume its streams.
    pub handlers: Vec<Arc<Handler>>,
    /// Time of its creation.
    pub created_at: Timestamp,
}

impl Hook {
    /// Its reduce handler, if it has one.
    pub fn reduce(&self) -> Option<&Arc<Handler>> {
        let mut handlers = self.handlers.iter();
        handlers.find(|handler| handler.reducer().is_some())
    }
}

/// Rule that divides a hook's events into streams. Written as a [`Place`], or `none` for a hook with
/// one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OrderBy {
    /// All events form one stream.
    #[default]
    Nothing,
    /// Events with the same key at this place form a stream.
    Place(Place),
}

/// A text that is not an ordering rule.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an ordering rule: body:/JSON/POINTER, header:NAME, form:NAME or none")]
pub struct InvalidOrderBy(String);

impl FromStr for OrderBy {
    type Err = InvalidOrderBy;

    fn from_str(text: &str) -> Result<Self, InvalidOrderBy> {
        if text == "none" {
            return Ok(Self::Nothing);
        }
        let wrong = |_| InvalidOrderBy(text.chars().take(200).collect());
        text.parse().map(Self::Place).map_err(wrong)
    }
}

impl fmt::Display for OrderBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("none"),
            Self::Place(place) => place.fmt(f),
        }
    }
}

/// Rule that recognizes a repeated event. Written as a [`Place`] or `standard`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DedupeBy {
    /// Compares the header `Idempotency-Key`, else `webhook-id`.
    #[default]
    Standard,
    /// Compares the key at this place; without a key there, the standard headers.
    Place(Place),
}

/// A text that is not a dedupe rule.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} does not say how to know a repeat: header:NAME, body:/JSON/POINTER, form:NAME or standard"
)]
pub struct InvalidDedupeBy(String);

impl FromStr for DedupeBy {
    type Err = InvalidDedupeBy;

    fn from_str(text: &str) -> Result<Self, InvalidDedupeBy> {
        if text == "standard" {
            return Ok(Self::Standard);
        }
        let wrong = |_| InvalidDedupeBy(text.chars().take(200).collect());
        text.parse().map(Self::Place).map_err(wrong)
    }
}

impl fmt::Display for DedupeBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard => f.write_str("standard"),
            Self::Place(place) => place.fmt(f),
        }
    }
}

/// Treatment of an event without an ordering key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unordered {
    /// It is answered 422 and not stored.
    #[default]
    Refuse,
    /// It goes to the hook's own stream, the one without a key.
    Keep,
}

/// A consumer of a hook's streams.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    /// Its number.
    pub id: HandlerId,
    /// The hook that it belongs to.
    pub hook: HookId,
    /// Its name; `reduce` for the reduce handler.
    pub name: Name,
    /// Work that it does with the events.
    pub work: Work,
    /// Filter of the events that it takes; it skips the others.
    pub only: Filter,
    /// Version of its reducer with its filter, from 1.
    pub fold: i64,
    /// Failure policy, applied when an event will not be tried again.
    pub on_error: OnError,
    /// Rule for gathering events into one turn; `None` takes them at once.
    pub debounce: Option<Debounce>,
    /// The replay of a handler that exists for one; `None` for a normal handler.
    pub replay: Option<Replay>,
}

/// Stored events to deliver again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The handler that replays them.
    pub of: HandlerId,
    /// Stream of the events.
    pub stream: StreamId,
    /// Last of the events.
    pub to: Seq,
}

/// Work of a handler on the events of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Folds them into a state.
    Reduce(Reducer),
    /// Forwards events to a destination. Each request is signed with every secret in `secrets` that is
    /// decrypted.
    Forward {
        /// Destination and limits.
        to: Forward,
        /// Signing secrets, newest first; two while they are being rotated.
        secrets: Secrets,
    },
    /// Keeps them for consumers that pull.
    Pull(Pull),
}

impl Handler {
    /// A temporary handler that delivers `replay` like this one: each event, at once, and held if the
    /// tries are used up.
    pub fn replaying(&self, id: HandlerId, replay: Replay) -> Self {
        let mut handler = Self {
            id,
            on_error: OnError::Hold,
            debounce: None,
            replay: Some(replay),
            ..self.clone()
        };
        if let Work::Forward { to, .. } = &mut handler.work {
            to.coalesce = false;
        }
        handler
    }

    /// Its reducer; `None` unless it is a reduce handler.
    pub fn reducer(&self) -> Option<&Reducer> {
        match &self.work {
            Work::Reduce(reducer) => Some(reducer),
            Work::Forward { .. } | Work::Pull(_) => None,
        }
    }

    /// Its settings; `None` unless it is a forward handler.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.work {
            Work::Forward { to, .. } => Some(to),
            Work::Reduce(_) | Work::Pull(_) => None,
        }
    }

    /// Its settings; `None` unless it is a pull handler. Cursors of pull handlers take no turns in
    /// lanes.
    pub fn pull(&self) -> Option<&Pull> {
        match &self.work {
            Work::Pull(pull) => Some(pull),
            Work::Reduce(_) | Work::Forward { .. } => None,
        }
    }

    /// The handler in two words, such as `reduce latest` or `forward crm`.
    pub fn described(&self) -> String {
        match &self.work {
            Work::Reduce(reducer) => format!("reduce {reducer}"),
            Work::Forward { .. } => format!("forward {}", self.name),
            Work::Pull(_) => format!("pull {}", self.name),
        }
    }

    /// Name of its kind in tables, JSON and the database.
    pub fn kind(&self) -> &'static str {
        match self.work {
            Work::Reduce(_) => "reduce",
            Work::Forward { .. } => "forward",
            Work::Pull(_) => "pull",
        }
    }
}

/// Failure policy of a handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The cursor is held until an operator acts.
    #[default]
    Hold,
    /// The event goes to the dead letters, and the stream goes on.
    Skip,
}

/// The longest debounce. Longer ones would let people forget that events wait.
pub const DEBOUNCE_MAX: Duration = Duration::from_secs(3600);

/// Gathers events into one turn, which begins when no event has come for `quiet`, or when the first one
/// has waited for `longest`, whichever is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debounce {
    /// Time without a new event after which the turn begins.
    pub quiet: Duration,
    /// Longest time that the first event waits.
    pub longest: Duration,
}

impl Debounce {
    /// Remaining time of gathering. The first and the last event were received at the given times by
    /// the wall clock, which now shows `now` and may have been set back. `gathered` is the time of
    /// gathering so far by a monotonic clock; it limits the total to `longest`.
    pub fn left(
        &self,
        (first, last): (Timestamp, Timestamp),
        now: Timestamp,
        gathered: Duration,
    ) -> Duration {
        let quiet = self.quiet.saturating_sub(now.since(last));
        let longest = self.longest.saturating_sub(now.since(first).max(gathered));
        quiet.min(longest)
    }
}

/// Function that folds events into a state. Written as the reducer's name, `append:N`, or the file name
/// of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reducer {
    /// The state is the last body.
    Latest,
    /// Bodies are merged into the state (RFC 7396).
    Merge,
    /// Bodies are patches of the state (RFC 6902).
    Patch,
    /// The state is the list of the last N bodies.
    Append(u32),
    /// The state is the number of events.
    Count,
    /// A JavaScript function computes the state.
    Script(Arc<Source>),
}

/// A JavaScript reducer as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// File name, for messages with line numbers.
    pub file: String,
    /// Source text.
    pub text: String,
}

/// The largest N of `append:N`.
pub const APPEND_MAX: u32 = 10_000;

/// A text that is not the name of a built-in reducer.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a reducer: latest, merge, patch, append:N (N from 1 to {APPEND_MAX}), count or a FILE.js"
)]
pub struct InvalidReducer(String);

impl Reducer {
    /// The built-in reducer of this name.
    ///
    /// # Errors
    /// [`InvalidReducer`] when there is none. Scripts are not read here.
    pub fn built_in(text: &str) -> Result<Self, InvalidReducer> {
        Ok(match text {
            "latest" => Self::Latest,
            "merge" => Self::Merge,
            "patch" => Self::Patch,
            "count" => Self::Count,
            _ => {
                let kept = text.strip_prefix("append:").and_then(|n| n.parse().ok());
                match kept {
                    Some(n) if (1..=APPEND_MAX).contains(&n) => Self::Append(n),
                    _ => return Err(InvalidReducer(text.chars().take(80).collect())),
                }
            }
        })
    }
}

impl fmt::Display for Reducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Merge => f.write_str("merge"),
            Self::Patch => f.write_str("patch"),
            Self::Append(n) => write!(f, "append:{n}"),
            Self::Count => f.write_str("count"),
            Self::Script(source) => f.write_str(&source.file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordering_rule_reads_back_as_it_was_written() {
        for (given, written) in [
            ("/data/customer", "body:/data/customer"),
            ("body:/a", "body:/a"),
            ("header:X-Account", "header:x-account"),
            ("form:who", "form:who"),
            ("none", "none"),
        ] {
            let rule: OrderBy = given.parse().unwrap();
            assert_eq!(rule.to_string(), written);
            assert_eq!(written.parse::<OrderBy>().unwrap(), rule);
        }
        for wrong in ["", "customer", "header:", "header:a b", "body:x"] {
            assert!(wrong.parse::<OrderBy>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rule_for_repeats_reads_back_as_it_was_written() {
        for (given, written) in [
            ("standard", "standard"),
            ("/id", "body:/id"),
            ("header:X-Delivery", "header:x-delivery"),
        ] {
            let rule: DedupeBy = given.parse().unwrap();
            assert_eq!(rule.to_string(), written);
            assert_eq!(written.parse::<DedupeBy>().unwrap(), rule);
        }
        for wrong in ["", "none", "id", "header:"] {
            assert!(wrong.parse::<DedupeBy>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_built_in_reducer_reads_back_as_it_was_written() {
        for text in ["latest", "merge", "patch", "append:5", "count"] {
            assert_eq!(Reducer::built_in(text).unwrap().to_string(), text);
        }
        for wrong in ["", "sum", "append", "append:0", "append:10001", "append:-1"] {
            assert!(Reducer::built_in(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_debounce_ends_when_it_is_quiet_and_at_the_latest_when_the_first_has_waited_enough() {
        let debounce = Debounce {
            quiet: Duration::from_millis(100),
            longest: Duration::from_secs(1),
        };
        let at = Timestamp::from_millis;
        let left = |first, last, now, gathered| {
            let gathered = Duration::from_millis(gathered);
            let left = debounce.left((at(first), at(last)), at(now), gathered);
            left.as_millis()
        };
        assert_eq!(left(0, 50, 50, 50), 100, "quiet from the last on");
        assert_eq!(left(0, 950, 950, 950), 50, "the first has waited");
        assert_eq!(left(0, 50, 150, 150), 0);
        // The clock was an hour ahead when they came.
        let hour = 3_600_000;
        assert_eq!(left(hour, hour + 50, 60, 0), 100, "as if it came now");
        assert_eq!(left(hour, hour + 50, 60, 940), 60);
        assert_eq!(left(hour, hour + 50, 60, 1_000), 0, "never longer");
    }
}

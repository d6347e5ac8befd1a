//! A hook and its handlers: what is received, how it is ordered, who consumes it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::forward::Forward;
use super::keep::Keep;
use super::name::Name;
use super::place::Place;
use super::pull::Pull;
use super::secret::Secret;
use super::time::Timestamp;

/// Which hook, as the database numbers them; a number is never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookId(pub i64);

/// Which handler, as the database numbers them; a number is never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandlerId(pub i64);

/// The largest body a hook accepts unless it says otherwise, in bytes.
pub const BODY_MAX_DEFAULT: u64 = 1024 * 1024;

/// The largest body a hook may be told to accept, in bytes.
pub const BODY_MAX_LIMIT: u64 = 32 * 1024 * 1024;

/// A configured receiver.
#[derive(Clone, Debug)]
pub struct Hook {
    /// Its number.
    pub id: HookId,
    /// Its name, unique among the hooks that exist.
    pub name: Name,
    /// Whose lanes its streams use.
    pub namespace: Name,
    /// What divides its events into streams.
    pub order_by: OrderBy,
    /// What becomes of an event that has no ordering key.
    pub unordered: Unordered,
    /// How it knows a repeat of an event.
    pub dedupe_by: DedupeBy,
    /// The largest body it accepts, in bytes.
    pub body_max: u64,
    /// For how long it keeps events that every handler has passed.
    pub keep: Keep,
    /// What consumes its streams.
    pub handlers: Vec<Arc<Handler>>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Hook {
    /// Its reduce handler; a hook has one at most.
    pub fn reduce(&self) -> Option<&Arc<Handler>> {
        let mut handlers = self.handlers.iter();
        handlers.find(|handler| handler.reducer().is_some())
    }
}

/// What divides a hook's events into streams. Written as a [`Place`] or, for a hook with one stream,
/// `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OrderBy {
    /// One stream.
    #[default]
    Nothing,
    /// Events with the same key at this place.
    Place(Place),
}

/// A rule that is none.
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

/// How a hook knows a repeat. Written as a [`Place`] or `standard`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DedupeBy {
    /// By the header `Idempotency-Key`, else `webhook-id`.
    #[default]
    Standard,
    /// By the key at this place; an event without one there by the standard headers.
    Place(Place),
}

/// A rule that is none.
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

/// What becomes of an event whose ordering key is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unordered {
    /// It is answered 422 and not stored.
    #[default]
    Refuse,
    /// It goes to the hook's own stream, the one without a key.
    Keep,
}

/// What consumes a hook's streams.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    /// Its number.
    pub id: HandlerId,
    /// The hook it belongs to.
    pub hook: HookId,
    /// `reduce` for the reduce handler.
    pub name: Name,
    /// What it does with the events.
    pub work: Work,
    /// Counts the versions of its reducer, from 1.
    pub fold: i64,
    /// The failure policy, once no further try is made.
    pub on_error: OnError,
    /// Gathers events into one turn.
    pub debounce: Option<Debounce>,
}

/// What a handler does with the events of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Folds them into a state.
    Reduce(Reducer),
    /// Delivers them to a destination, and signs each request with every one of `secrets`: the newest first,
    /// two while they are rotated.
    Forward {
        /// Where, and within which limits.
        to: Forward,
        /// What receivers verify requests with.
        secrets: Vec<Secret>,
    },
    /// Keeps them for consumers that ask.
    Pull(Pull),
}

impl Handler {
    /// How it folds; `None` unless it is a reduce handler.
    pub fn reducer(&self) -> Option<&Reducer> {
        match &self.work {
            Work::Reduce(reducer) => Some(reducer),
            Work::Forward { .. } | Work::Pull(_) => None,
        }
    }

    /// Where it delivers; `None` unless it is a forward handler.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.work {
            Work::Forward { to, .. } => Some(to),
            Work::Reduce(_) | Work::Pull(_) => None,
        }
    }

    /// The terms of its deliveries; `None` unless it is a pull handler, whose cursors take no turns in lanes.
    pub fn pull(&self) -> Option<&Pull> {
        match &self.work {
            Work::Pull(pull) => Some(pull),
            Work::Reduce(_) | Work::Forward { .. } => None,
        }
    }

    /// The handler in two words: `reduce latest`, `forward crm`.
    pub fn described(&self) -> String {
        match &self.work {
            Work::Reduce(reducer) => format!("reduce {reducer}"),
            Work::Forward { .. } => format!("forward {}", self.name),
            Work::Pull(_) => format!("pull {}", self.name),
        }
    }

    /// The word for its kind in tables, JSON and the database.
    pub fn kind(&self) -> &'static str {
        match self.work {
            Work::Reduce(_) => "reduce",
            Work::Forward { .. } => "forward",
            Work::Pull(_) => "pull",
        }
    }
}

/// What an event that can never be folded leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Its cursor is held until an operator acts.
    #[default]
    Hold,
    /// It goes to the dead letters, and its stream goes on.
    Skip,
}

/// The longest debounce: beyond it an event would be forgotten by people.
pub const DEBOUNCE_MAX: Duration = Duration::from_secs(3600);

/// Gathers events into one turn: it begins when none came for `quiet`, or when the first has waited
/// for `longest`, whichever is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debounce {
    /// How long none may have come.
    pub quiet: Duration,
    /// How long the first may wait.
    pub longest: Duration,
}

impl Debounce {
    /// How much longer events are gathered: the first and the last of them were received at these moments by the
    /// wall clock, which may have been ahead then, and stands at `now`. `gathered` says for how long they have been,
    /// by a clock that does not jump. With it they are never gathered for more than `longest`.
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

/// How events become a state. Written as its word, `append:N`, or as the name of a script's file.
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
    /// A JavaScript function folds.
    Script(Arc<Source>),
}

/// A JavaScript reducer as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The name of its file, for messages with line numbers.
    pub file: String,
    /// Its text.
    pub text: String,
}

/// The most bodies that `append:N` keeps.
pub const APPEND_MAX: u32 = 10_000;

/// A text that names no built-in reducer.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a reducer: latest, merge, patch, append:N (N from 1 to {APPEND_MAX}), count or a FILE.js"
)]
pub struct InvalidReducer(String);

impl Reducer {
    /// The built-in reducer of this name.
    ///
    /// # Errors
    /// [`InvalidReducer`] when there is none; scripts are not read here.
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

//! Settings of a forward handler: its destination and its limits.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;

use super::rate::Rate;

/// Longest time-out of one request. A node sends a request only while its lease outlives it: 15 s, less
/// the margin of 2 s and one renewal of 3 s. Longer work needs a pull handler.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(10);

/// Default time-out of one request.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// Default number of requests in flight from one node to one destination.
pub const IN_FLIGHT_DEFAULT: u32 = 64;

/// Largest number of requests in flight that a handler may be configured with.
pub const IN_FLIGHT_MAX: u32 = 1_024;

/// Largest number of events in one request.
pub const BATCH_MAX: u32 = 1_000;

/// Default number of body bytes in one request.
pub const BATCH_BYTES_DEFAULT: u64 = 256 * 1024;

/// Settings of a forward handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Destination of its requests.
    pub url: Destination,
    /// Time-out of a request, from connecting to the end of the answer; at most [`TIMEOUT_MAX`].
    pub timeout: Duration,
    /// Number of tries of an event before the failure policy applies; `None` tries without end.
    pub attempts: Option<u32>,
    /// Number of requests in flight at once from one node, over all streams; 1 to [`IN_FLIGHT_MAX`].
    pub in_flight_max: u32,
    /// Limit of requests per time from one node; `None` is no limit.
    pub rate: Option<Rate>,
    /// Limits for sending consecutive events of one stream in one request; `None` sends each event
    /// alone.
    pub batch: Option<Batch>,
    /// True if only the newest of the waiting events is delivered.
    pub coalesce: bool,
}

impl Forward {
    /// A destination with default settings.
    pub fn to(url: Destination) -> Self {
        Self {
            url,
            timeout: TIMEOUT_DEFAULT,
            attempts: None,
            in_flight_max: IN_FLIGHT_DEFAULT,
            rate: None,
            batch: None,
            coalesce: false,
        }
    }
}

/// Place where the cursors of a new handler begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// The first event that is still stored.
    #[default]
    Beginning,
    /// The end of each stream: only events received from now on.
    Now,
}

/// Size limits of a request with several events. Written `100` or `100,256KiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Number of events; 2 to [`BATCH_MAX`].
    pub events: u32,
    /// Bytes of their bodies together. A first event that is larger is sent alone.
    pub bytes: u64,
}

/// URL of a destination: http or https, without user part and fragment. Its IP address is checked when
/// connecting, not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination(Uri);

/// A text that is not a valid destination.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{url} is not a destination: {why}")]
pub struct InvalidDestination {
    url: String,
    why: &'static str,
}

impl Destination {
    /// The URL.
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// Host and port, as logs and screens show it.
    pub fn authority(&self) -> &str {
        self.0
            .authority()
            .map_or("", |authority| authority.as_str())
    }
}

impl FromStr for Destination {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, InvalidDestination> {
        let wrong = |why| InvalidDestination {
            url: format!("{:?}", text.chars().take(200).collect::<String>()),
            why,
        };
        // The text is not repeated, because the user part may be a password.
        let without_user = |why| InvalidDestination {
            url: "this URL".to_owned(),
            why,
        };
        if text.contains('#') {
            return Err(wrong("a fragment (#…) is never sent"));
        }
        let uri: Uri = text.parse().map_err(|_| wrong("it is not a URL"))?;
        let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(without_user(
                "it has a user part; secrets go into --secret-file",
            ));
        }
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => {}
            _ => return Err(wrong("it does not begin with http:// or https://")),
        }
        if authority.host().is_empty() {
            return Err(wrong("it has no host"));
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is not a valid batch.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a batch: 2 to {BATCH_MAX} events, such as 100, or with bytes, such as 100,256KiB"
)]
pub struct InvalidBatch(String);

impl FromStr for Batch {
    type Err = InvalidBatch;

    fn from_str(text: &str) -> Result<Self, InvalidBatch> {
        let wrong = || InvalidBatch(text.chars().take(80).collect());
        let (events, bytes) = match text.split_once(',') {
            Some((events, bytes)) => (events, bytes_of(bytes).ok_or_else(wrong)?),
            None => (text, BATCH_BYTES_DEFAULT),
        };
        match events.parse() {
            Ok(events @ 2..=BATCH_MAX) if bytes > 0 => Ok(Self { events, bytes }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes {
            bytes if bytes % 1024 == 0 => write!(f, "{},{}KiB", self.events, bytes / 1024),
            bytes => write!(f, "{},{bytes}B", self.events),
        }
    }
}

fn bytes_of(text: &str) -> Option<u64> {
    let units = [
        ("KiB", 1024),
        ("MiB", 1024 * 1024),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("B", 1),
    ];
    let (number, unit) = units
        .into_iter()
        .find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)))
        .unwrap_or((text, 1));
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_an_http_url_without_a_user_part() {
        for right in [
            "https://crm.example/hooks?a=1",
            "http://127.0.0.1:9000",
            "http://[::1]/x",
        ] {
            assert!(right.parse::<Destination>().is_ok(), "{right}");
        }
        for (wrong, why) in [
            ("crm.example/hooks", "not a URL"),
            ("/hooks", "no host"),
            ("ftp://crm.example", "does not begin with"),
            ("https://", "not a URL"),
            ("https://crm.example/#part", "fragment"),
            ("", "not a URL"),
        ] {
            let error = wrong.parse::<Destination>().unwrap_err().to_string();
            assert!(error.contains(why), "{wrong}: {error}");
        }
        let error = "https://user:hunter2@crm.example".parse::<Destination>();
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("user part") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn a_batch_reads_back_as_it_was_written() {
        for (given, events, bytes) in [
            ("100", 100, 262_144),
            ("2,1B", 2, 1),
            ("50,1MiB", 50, 1 << 20),
        ] {
            let batch: Batch = given.parse().unwrap();
            assert_eq!((batch.events, batch.bytes), (events, bytes));
            assert_eq!(batch.to_string().parse::<Batch>().unwrap(), batch);
        }
        for wrong in [
            "",
            "1",
            "1001",
            "100,0",
            "100,",
            "a",
            "100,xKiB",
            "100,99999999999999999999",
        ] {
            assert!(wrong.parse::<Batch>().is_err(), "{wrong}");
        }
    }
}

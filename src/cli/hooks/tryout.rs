//! `hooks test`: tries a reducer on an event, or on the stored events of a stream, before it is live.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::Method;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{file, path};
use crate::api::{EventRow, ReducerTest, TestResult};
use crate::cli::reach::Reach;
use crate::cli::{Exit, Printer, Trouble, flags};
use crate::domain::name::{Name, StreamName};
use crate::domain::position::Seq;
use crate::domain::version::Late;
use crate::text::{self, counted, quoted};

/// Try a reducer, the hook's own or one that is not live yet; nothing is stored
///
/// --event takes a body, or a whole event as `events show -o json` prints it: a JSON object whose `event` is an
/// event's id and which has a `stream`. The reducer then sees the same headers, seq and time as when it came.
///
/// --stream takes the stored events of a stream, from --from-seq on. Before them stands the state as the live
/// reducer made it. With the event that a held stream needs next, this shows what a fix would do.
///
/// The state goes to stdout; where it differs from the state before goes to stderr.
///
/// Examples:
///   hooklane hooks test orders --event order.json
///   hooklane hooks test orders --reduce fixed.js --event event.json
///   hooklane hooks test orders --reduce fixed.js --stream orders/c07 --from-seq 9
///   echo '{"n":1}' | hooklane hooks test hello --event - --state state.json
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Try {
    /// The hook
    name: Name,
    /// The reducer to try: latest, merge, patch, append:N, count or a FILE.js [default: the hook's own]
    #[arg(long, value_name = "NAME|FILE.js")]
    reduce: Option<String>,
    /// An event's body, or a whole event; - for stdin
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "stream",
        conflicts_with = "stream"
    )]
    event: Option<PathBuf>,
    /// A header of the event; may be given often
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = flags::header)]
    #[arg(conflicts_with = "stream")]
    headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// The state before it, as JSON [default: none, as for the first event]
    #[arg(long, value_name = "FILE", conflicts_with = "stream")]
    state: Option<PathBuf>,
    /// The stored events of this stream, HOOK or HOOK/KEY
    #[arg(long, value_parser = flags::stream)]
    stream: Option<StreamName>,
    /// Seq of the first event [default: the first that is kept]
    #[arg(long, value_name = "SEQ", requires = "stream")]
    from_seq: Option<i64>,
}

impl Try {
    pub(super) async fn run(self, reach: &Reach, out: &mut Printer) -> anyhow::Result<Exit> {
        let mut test = match &self.event {
            Some(file) => event(file::text(file)?)?,
            None => ReducerTest::default(),
        };
        test.headers.extend(header_texts(&self.headers));
        test.state = self.state.as_deref().map(json).transpose()?;
        let reduce = self.reduce.as_ref();
        test.reduce = reduce
            .map(|text| file::reducer(text, Path::new("")))
            .transpose()?;
        test.from_seq = self.from_seq.map(Seq);
        if let Some(stream) = self.stream {
            test.stream = Some(reach.meant(stream).await?);
        }
        let call = format!("{}/test", path(&self.name));
        let tested: TestResult = reach.call(Method::POST, &call, Some(&test)).await?;
        if !out.object(&tested)? {
            out.line(tested.state.get())?;
            out.flush()?;
        }
        tell(&tested, test.stream.as_ref(), out)
    }
}

/// Number of differences printed at most.
const DIFFERENCES_MAX: usize = 20;

fn tell(
    tested: &TestResult,
    stream: Option<&StreamName>,
    out: &mut Printer,
) -> anyhow::Result<Exit> {
    let value = |state: Option<&RawValue>| {
        let state = state.map_or("null", RawValue::get);
        serde_json::from_str(state).unwrap_or(Value::Null)
    };
    if tested.before.is_some() {
        let before = value(tested.before.as_deref());
        let after = value(Some(&tested.state));
        let mut found = text::differences(&before, &after, DIFFERENCES_MAX + 1);
        let is_cut = found.len() > DIFFERENCES_MAX;
        found.truncate(DIFFERENCES_MAX);
        for difference in &found {
            out.say(format_args!("  {difference}"))?;
        }
        match (found.is_empty(), is_cut) {
            (true, _) => out.say(format_args!("  the state stays the same"))?,
            (_, true) => out.say(format_args!("  ... and more"))?,
            _ => {}
        }
    }
    let events = counted(tested.events, "event", "events");
    let took = tested.took_ms;
    if let Some(failure) = &tested.failure {
        let message =
            format!("{failure}; {events} before it could be applied. Nothing was stored.");
        return Err(Trouble::new(Exit::Unfinished, "reducer", message).into());
    }
    out.say(format_args!(
        "applied {events} in {took:.1}ms, nothing was stored"
    ))?;
    if let Some(stream) = stream {
        let make_live = format!("hooklane hooks edit {} --reduce FILE.js", stream.hook);
        let retry = format!("hooklane streams retry {}", quoted(stream));
        out.facts(&[("live", make_live), ("then", retry)])?;
    }
    Ok(Exit::Done)
}

/// Parses a body, or a whole event as `events show -o json` prints it.
fn event(text: String) -> Result<ReducerTest, Trouble> {
    let is_whole = |value: &Value| {
        let id = value.get("event").and_then(Value::as_str);
        id.is_some_and(|id| id.starts_with("evt_")) && value.get("stream").is_some()
    };
    let value = serde_json::from_str(&text).ok().filter(is_whole);
    let Some(value) = value else {
        return Ok(ReducerTest {
            body: text,
            ..ReducerTest::default()
        });
    };
    let wrong = |error: String| {
        let message = format!("this looks like a whole event, but {error}");
        Trouble::usage(message).fact("as printed by", "hooklane events show ID -o json")
    };
    let row: EventRow = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
    let body = match (row.body, row.body_base64) {
        (Some(body), _) => body,
        (None, Some(base64)) => {
            let bytes = STANDARD
                .decode(base64)
                .map_err(|error| wrong(error.to_string()))?;
            String::from_utf8(bytes).map_err(|_| wrong("its body is not text".to_owned()))?
        }
        (None, None) => return Err(wrong("it has no body".to_owned())),
    };
    Ok(ReducerTest {
        headers: row.headers.unwrap_or_default(),
        body,
        event: Some(row.event),
        seq: Some(row.seq),
        received_at: Some(row.received_at),
        late: row.late == Some(Late::Mark),
        ..ReducerTest::default()
    })
}

fn header_texts(headers: &[(http::HeaderName, http::HeaderValue)]) -> BTreeMap<String, String> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let texts = headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)));
    texts.collect()
}

fn json(path: &Path) -> Result<Box<RawValue>, Trouble> {
    let text = file::text(path)?;
    serde_json::from_str(text.trim())
        .map_err(|error| Trouble::usage(format!("{} is not JSON: {error}", path.display())))
}

//! The reducers that need no script: `latest`, `merge`, `patch`, `append:N`, `count`.
//!
//! `latest` and `append` keep bodies as they were sent, to the letter; a body that is not JSON
//! counts as a text. `merge` and `patch` read them, so numbers beyond 64 bits become floating-point
//! ones there, and a body that is not JSON, or nested deeper than [`DEPTH_MAX`], is refused.

use std::collections::VecDeque;
use std::time::Instant;

use json_patch::{Patch, PatchOperation, jsonptr::Pointer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::{Failure, Reduce, STATE_MAX, TIME_MAX, check_size, printable};
use crate::domain::event::Event;

/// How deep arrays and objects may stand in each other where they are read: what the parser takes.
const DEPTH_MAX: usize = 127;

type Outcome = Result<(), Failure>;

fn rejected(reason: impl Into<String>) -> Failure {
    Failure::Rejected(reason.into())
}

/// A body as JSON text: as it was sent if it is JSON, else as a JSON string.
fn json(body: &[u8]) -> Box<RawValue> {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        to_raw_value(&String::from_utf8_lossy(body)).expect("a text is JSON because any text is")
    })
}

/// The state is the last body.
pub(super) struct Latest {
    pub(super) state: Option<String>,
}

impl Reduce for Latest {
    fn reduce(&mut self, event: &Event) -> Outcome {
        let body: Box<str> = json(&event.body).into();
        check_size(body.len())?;
        self.state = Some(body.into());
        Ok(())
    }

    fn state(&self) -> Option<String> {
        self.state.clone()
    }
}

/// The state is the number of events.
pub(super) struct Count {
    count: Option<u64>,
}

impl Count {
    pub(super) fn new(state: Option<&str>) -> Result<Self, Failure> {
        let count = state.map(str::parse).transpose();
        let count = count.map_err(|_| rejected("the state is not a count; rebuild it"))?;
        Ok(Self { count })
    }
}

impl Reduce for Count {
    fn reduce(&mut self, _: &Event) -> Outcome {
        self.count = Some(self.count.unwrap_or(0).saturating_add(1));
        Ok(())
    }

    fn state(&self) -> Option<String> {
        self.count.map(|count| count.to_string())
    }
}

/// The state is the list of the last bodies.
pub(super) struct Append {
    bodies: VecDeque<Box<RawValue>>,
    max: usize,
    /// Of the bodies together, in bytes.
    len: usize,
}

impl Append {
    pub(super) fn new(max: u32, state: Option<&str>) -> Result<Self, Failure> {
        let bodies: VecDeque<Box<RawValue>> = serde_json::from_str(state.unwrap_or("[]"))
            .map_err(|_| rejected("the state is not a list; rebuild it"))?;
        Ok(Self {
            max: usize::try_from(max).unwrap_or(usize::MAX),
            len: bodies.iter().map(|body| body.get().len()).sum(),
            bodies,
        })
    }
}

impl Reduce for Append {
    fn reduce(&mut self, event: &Event) -> Outcome {
        let body = json(&event.body);
        let leaving = (self.bodies.len() + 1).saturating_sub(self.max);
        let left: usize = self
            .bodies
            .iter()
            .take(leaving)
            .map(|b| b.get().len())
            .sum();
        let len = self.len - left + body.get().len();
        let commas = self.bodies.len() - leaving;
        check_size(len + commas + "[]".len())?;
        self.bodies.drain(..leaving);
        self.bodies.push_back(body);
        self.len = len;
        Ok(())
    }

    fn state(&self) -> Option<String> {
        let bodies: Vec<&str> = self.bodies.iter().map(|body| body.get()).collect();
        (!bodies.is_empty()).then(|| format!("[{}]", bodies.join(",")))
    }
}

/// The state is a document that bodies change.
pub(super) struct Document {
    change: fn(&mut Value, &[u8]) -> Outcome,
    /// What there is before the first event.
    blank: Value,
    state: Option<String>,
    /// The state, read.
    value: Value,
}

impl Document {
    /// Bodies are merged into it (RFC 7396).
    pub(super) fn merged(state: Option<String>) -> Result<Self, Failure> {
        Self::new(merge, Value::Null, state)
    }

    /// Bodies are patches of it (RFC 6902). The first one finds an empty object.
    pub(super) fn patched(state: Option<String>) -> Result<Self, Failure> {
        Self::new(patch, Value::Object(serde_json::Map::new()), state)
    }

    fn new(
        change: fn(&mut Value, &[u8]) -> Outcome,
        blank: Value,
        state: Option<String>,
    ) -> Result<Self, Failure> {
        let value = match &state {
            None => blank.clone(),
            Some(text) => serde_json::from_str(text)
                .map_err(|error| rejected(format!("the state cannot be read: {error}")))?,
        };
        Ok(Self {
            change,
            blank,
            state,
            value,
        })
    }

    fn try_reduce(&mut self, body: &[u8]) -> Result<String, Failure> {
        (self.change)(&mut self.value, body)?;
        let text = self.value.to_string();
        check_size(text.len())?;
        Ok(text)
    }
}

impl Reduce for Document {
    fn reduce(&mut self, event: &Event) -> Outcome {
        match self.try_reduce(&event.body) {
            Ok(text) => self.state = Some(text),
            Err(failure) => {
                let before = self.state.as_deref().map(serde_json::from_str);
                self.value = before
                    .transpose()
                    .expect("the state reads again because it has been read or written before")
                    .unwrap_or_else(|| self.blank.clone());
                return Err(failure);
            }
        }
        Ok(())
    }

    fn state(&self) -> Option<String> {
        self.state.clone()
    }
}

fn merge(state: &mut Value, body: &[u8]) -> Outcome {
    let body = serde_json::from_slice(body)
        .map_err(|error| rejected(format!("the body is not JSON to merge: {error}")))?;
    json_patch::merge(state, &body);
    Ok(())
}

/// Applies one operation after the other: a patch may be short and yet make a state that is huge,
/// deep, or takes very long.
fn patch(state: &mut Value, body: &[u8]) -> Outcome {
    let patch: Patch = serde_json::from_slice(body)
        .map_err(|error| rejected(printable(&format!("the body is not a JSON patch: {error}"))))?;
    let until = Instant::now() + TIME_MAX;
    let mut copied = 0;
    for (at, operation) in patch.iter().enumerate() {
        check_growth(state, operation, &mut copied)
            .and_then(|()| {
                json_patch::patch_unsafe(state, std::slice::from_ref(operation))
                    .map_err(|error| format!("{} at {:?}", error.kind, error.path.as_str()))
            })
            .map_err(|why| rejected(printable(&format!("operation {at} of the patch: {why}"))))?;
        if Instant::now() >= until {
            let reason = format!("patching for more than {} ms", TIME_MAX.as_millis());
            return Err(Failure::OutOfTime(reason));
        }
    }
    Ok(())
}

/// Refuses an operation that would nest the state too deep or copy too much.
fn check_growth(
    state: &Value,
    operation: &PatchOperation,
    copied: &mut usize,
) -> Result<(), String> {
    let found = |from: &Pointer| state.pointer(from.as_str());
    let put = match operation {
        PatchOperation::Add(add) => Some(&add.value),
        PatchOperation::Replace(replace) => Some(&replace.value),
        PatchOperation::Move(moved) => found(&moved.from),
        PatchOperation::Copy(copy) => found(&copy.from),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    let Some(put) = put else { return Ok(()) };
    let (size, depth) = measure(put);
    if operation.path().count() + depth > DEPTH_MAX {
        return Err(format!("it nests deeper than {DEPTH_MAX} levels"));
    }
    if matches!(operation, PatchOperation::Copy(_)) {
        *copied += size;
        if *copied > STATE_MAX {
            return Err(format!("it copies more than {STATE_MAX} bytes"));
        }
    }
    Ok(())
}

/// About how many bytes of JSON a value has, never more than it really has; and how many arrays and
/// objects stand in each other.
fn measure(value: &Value) -> (usize, usize) {
    let sum = |parts: &mut dyn Iterator<Item = (usize, &Value)>| {
        parts.fold((2, 1), |(size, depth), (extra, part)| {
            let (more, below) = measure(part);
            (size + extra + more, depth.max(below + 1))
        })
    };
    match value {
        Value::Array(items) => sum(&mut items.iter().map(|item| (0, item))),
        Value::Object(members) => sum(&mut members.iter().map(|(name, v)| (name.len() + 3, v))),
        Value::String(text) => (text.len() + 2, 0),
        _ => (1, 0),
    }
}

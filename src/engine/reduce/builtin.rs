//! Reducers that do not look into bodies: `latest`, `append:N`, `count`.
//!
//! They keep bodies exactly as they were sent; a body that is not JSON becomes a JSON string.

use std::collections::VecDeque;

use serde_json::value::{RawValue, to_raw_value};

use super::{Failure, Reduce, check_size};
use crate::domain::event::Event;
use crate::domain::json;

type Outcome = Result<(), Failure>;

fn rejected(reason: impl Into<String>) -> Failure {
    Failure::Rejected(reason.into())
}

/// A body as JSON: unchanged if it is JSON, else as a JSON string.
fn json(body: &[u8]) -> Box<RawValue> {
    let text = json::text(body).ok().map(str::to_owned);
    let raw = text.and_then(|text| RawValue::from_string(text).ok());
    raw.unwrap_or_else(|| {
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
    /// Length of all bodies together, in bytes.
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

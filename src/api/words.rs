//! Spelling of domain types in JSON and TOML: the same text that people write.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::domain::forward::{Batch, Begin, Destination};
use crate::domain::handshake::Handshake;
use crate::domain::hook::{Debounce, DedupeBy, OnError, OrderBy, Reducer, Source, Unordered};
use crate::domain::keep::Keep;
use crate::domain::key::KeyId;
use crate::domain::lane::LaneId;
use crate::domain::name::{OrderingKey, StreamName};
use crate::domain::network::{self, Networks};
use crate::domain::place::Place;
use crate::domain::rate::Rate;
use crate::domain::time::millis;
use crate::domain::verify::Scheme;
use crate::domain::version::Late;

/// Serializes types as text by `Display` and `FromStr`.
macro_rules! as_text {
    ($($word:ty),+) => {$(
        impl Serialize for $word {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $word {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                parsed(from)
            }
        }
    )+};
}

as_text!(
    Batch,
    DedupeBy,
    Destination,
    Handshake,
    Keep,
    LaneId,
    Late,
    OrderBy,
    Place,
    StreamName,
    Rate,
    Scheme
);

fn parsed<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    String::deserialize(from)?
        .parse()
        .map_err(de::Error::custom)
}

/// Serializes an enum as one of a few words.
macro_rules! as_word {
    ($type:ty { $($word:literal = $value:path),+ }) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(match self { $($value => $word),+ })
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                match String::deserialize(from)?.as_str() {
                    $($word => Ok($value),)+
                    other => Err(de::Error::unknown_variant(other, &[$($word),+])),
                }
            }
        }
    };
}

as_word!(Unordered { "refuse" = Unordered::Refuse, "keep" = Unordered::Keep });
as_word!(Begin { "beginning" = Begin::Beginning, "now" = Begin::Now });
as_word!(OnError { "hold" = OnError::Hold, "skip" = OnError::Skip });

impl Serialize for OrderingKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for OrderingKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self::new(String::deserialize(from)?.as_bytes()))
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom(format!("{text:?} is not a key's id")))
    }
}

/// JSON form of ranges of addresses: a list of texts.
impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter().map(ToString::to_string))
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let ranges = texts.iter().map(|text| network::range(text));
        let ranges: Result<Vec<_>, _> = ranges.collect();
        ranges.map(Self::from).map_err(de::Error::custom)
    }
}

/// JSON form of a debounce: `{"quiet_ms": 500, "longest_ms": 5000}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DebounceMs {
    quiet_ms: u64,
    longest_ms: u64,
}

impl Serialize for Debounce {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        DebounceMs {
            quiet_ms: millis(self.quiet).unsigned_abs(),
            longest_ms: millis(self.longest).unsigned_abs(),
        }
        .serialize(to)
    }
}

impl<'de> Deserialize<'de> for Debounce {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let ms = DebounceMs::deserialize(from)?;
        if ms.longest_ms < ms.quiet_ms {
            return Err(de::Error::custom("longest_ms is shorter than quiet_ms"));
        }
        Ok(Self {
            quiet: Duration::from_millis(ms.quiet_ms),
            longest: Duration::from_millis(ms.longest_ms),
        })
    }
}

/// JSON form of a reducer: the name of a built-in one, or `{"file": "orders.js", "source": "export
/// default …"}`.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "reduce is the word of a built-in, or a script's {file, source}"
)]
enum Written {
    BuiltIn(String),
    Script { file: String, source: String },
}

impl Serialize for Reducer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Script(source) => Written::Script {
                file: source.file.clone(),
                source: source.text.clone(),
            },
            built_in => Written::BuiltIn(built_in.to_string()),
        }
        .serialize(to)
    }
}

impl<'de> Deserialize<'de> for Reducer {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Written::deserialize(from)? {
            Written::BuiltIn(word) => Self::built_in(&word).map_err(de::Error::custom),
            Written::Script { file, source } => {
                Ok(Self::Script(Arc::new(Source { file, text: source })))
            }
        }
    }
}

/// A lane in an answer: its name, and beside it its place and its generation.
pub(super) mod lane_parts {
    use super::{Deserialize, Deserializer, LaneId, Serialize, Serializer};

    #[derive(Serialize)]
    struct Parts<'l> {
        lane: &'l LaneId,
        index: u16,
        generation: i64,
    }

    #[derive(Deserialize)]
    struct Named {
        lane: LaneId,
    }

    pub fn serialize<S: Serializer>(id: &LaneId, to: S) -> Result<S::Ok, S::Error> {
        let (index, generation) = (id.index, id.generation);
        let parts = Parts {
            lane: id,
            index,
            generation,
        };
        parts.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<LaneId, D::Error> {
        Named::deserialize(from).map(|named| named.lane)
    }
}

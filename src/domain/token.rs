//! Token that identifies a pulled delivery.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::cursor::{CursorId, Era};
use super::event::StreamId;
use super::hook::HandlerId;
use super::position::Position;

/// Identifies one open delivery. Consumers return it as they got it; it is opaque to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Cursor whose events were delivered.
    pub cursor: CursorId,
    /// Era of the cursor.
    pub era: Era,
    /// Position of the cursor.
    pub position: Position,
    /// Number of the delivery within its cursor; a later delivery makes earlier tokens stale.
    pub number: i64,
}

/// A text that is not a token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not the token of a delivery; give it back as the pull gave it")]
pub struct InvalidToken(String);

const NUMBERS: usize = 5;
const NUMBER_LEN: usize = size_of::<i64>();

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: [i64; NUMBERS] = [
            self.cursor.stream.0,
            self.cursor.handler.0,
            self.era.0,
            self.position.0,
            self.number,
        ];
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let wrong = || InvalidToken(text.chars().take(80).collect());
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        let (numbers, rest) = bytes.as_chunks::<NUMBER_LEN>();
        let numbers: Vec<_> = numbers.iter().map(|n| i64::from_be_bytes(*n)).collect();
        match (&numbers[..], rest) {
            (&[stream, handler, era, position, number], []) => Ok(Self {
                cursor: CursorId {
                    stream: StreamId(stream),
                    handler: HandlerId(handler),
                },
                era: Era(era),
                position: Position(position),
                number,
            }),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_as_it_was_written_and_nothing_else_is_one() {
        let token = Token {
            cursor: CursorId {
                stream: StreamId(7),
                handler: HandlerId(i64::MAX),
            },
            era: Era(1),
            position: Position(0),
            number: 3,
        };
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token));
        for wrong in ["", "x", &text[1..], &format!("{text}AAAAAAAAAAA"), "\u{e9}"] {
            assert!(wrong.parse::<Token>().is_err(), "{wrong}");
        }
    }
}

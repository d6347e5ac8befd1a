//! The types of hooklane's vocabulary: no I/O, no async, and no clock except as an argument.
//!
//! Everything here is parsed once at the border and valid from then on; the floors above rely on that.

pub mod alert;
pub mod backoff;
pub mod cursor;
pub mod event;
pub mod failure;
pub mod feed;
pub mod filter;
pub mod forward;
pub mod handshake;
pub mod hook;
pub mod json;
pub mod keep;
pub mod key;
pub mod lane;
pub mod name;
pub mod network;
pub mod place;
pub mod pointer;
pub mod position;
pub mod pull;
pub mod rate;
pub mod seal;
pub mod secret;
pub mod thresholds;
pub mod time;
pub mod token;
pub mod verify;
pub mod version;

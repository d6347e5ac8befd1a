//! The words of hooklane as types: no I/O, no async, no clock but the one that is handed in.
//!
//! Everything here is parsed once at a border and valid ever after; the floors above trust it.

pub mod backoff;
pub mod cursor;
pub mod event;
pub mod failure;
pub mod forward;
pub mod hook;
pub mod json;
pub mod keep;
pub mod key;
pub mod lane;
pub mod name;
pub mod place;
pub mod pointer;
pub mod position;
pub mod pull;
pub mod rate;
pub mod secret;
pub mod thresholds;
pub mod time;
pub mod token;

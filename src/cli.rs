//! temp
#![allow(missing_docs)]
pub mod lock;
pub mod log;
pub mod serve;

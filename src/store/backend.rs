//! The two databases: each has its wing, and the same rooms in it.

pub mod ops;
pub mod postgres;
pub mod session;
pub mod sqlite;

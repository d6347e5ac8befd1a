//! hooklane

pub mod domain;
pub mod store;
pub mod metrics;
pub mod text;

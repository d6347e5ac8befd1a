//! hooklane

pub mod api;
pub mod domain;
pub mod store;
pub mod metrics;
pub mod text;

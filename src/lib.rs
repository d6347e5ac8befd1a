//! hooklane

pub mod admin;
pub mod api;
pub mod domain;
pub mod engine;
pub mod lanes;
pub mod store;
pub mod metrics;
pub mod text;

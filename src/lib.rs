//! hooklane

pub mod admin;
pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod domain;
pub mod engine;
pub mod http;
pub mod lanes;
pub mod metrics;
pub mod store;
pub mod text;

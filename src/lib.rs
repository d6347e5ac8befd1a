//! hooklane

pub mod domain;

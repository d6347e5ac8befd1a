//! Why Redis cannot be used.

/// Why Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What we were told to use cannot work; says what to do.
    #[error("{0}")]
    Refused(String),
    /// No answer in time, or none that is understood.
    #[error("{0}")]
    Away(String),
}

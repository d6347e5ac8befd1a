//! Reasons why Redis cannot be used.

/// Reason why Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server is not fit for use; the message says what to do.
    #[error("{0}")]
    Refused(String),
    /// No answer in time, or one that cannot be understood.
    #[error("{0}")]
    Away(String),
}

//! Results of `hooklane doctor`.

use serde::{Deserialize, Serialize};

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// The checked thing is as it should be.
    Ok,
    /// It works, but an operator should look at it.
    Warn,
    /// It does not work, or acknowledged events are in danger.
    Fail,
}

impl Grade {
    /// Its name on screens.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The thing checked, such as `database` or `disk`.
    pub name: String,
    /// Result of the check.
    pub grade: Grade,
    /// Finding with its values; never a password or a key.
    pub text: String,
    /// Remedy; `null` when nothing needs to be done.
    pub remedy: Option<String>,
}

impl Check {
    /// A check with grade `ok`.
    pub fn ok(name: &str, text: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            grade: Grade::Ok,
            text: text.into(),
            remedy: None,
        }
    }

    /// A check with grade `warn`.
    pub fn warn(name: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            grade: Grade::Warn,
            remedy: Some(remedy.into()),
            ..Self::ok(name, text)
        }
    }

    /// A check with grade `fail`.
    pub fn fail(name: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            grade: Grade::Fail,
            ..Self::warn(name, text, remedy)
        }
    }
}

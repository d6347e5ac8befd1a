//! What the doctor found.

use serde::{Deserialize, Serialize};

/// How good something is that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works; somebody should look.
    Warn,
    /// It does not work, or what was acknowledged is in danger.
    Fail,
}

impl Grade {
    /// The word for it on screens.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What: `database`, `disk` …
    pub name: String,
    /// How good it is.
    pub grade: Grade,
    /// What was found, with the values; never a password or a key.
    pub text: String,
    /// What to do; none when nothing is to be done.
    pub remedy: Option<String>,
}

impl Check {
    /// Something that is as it should be.
    pub fn ok(name: &str, text: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            grade: Grade::Ok,
            text: text.into(),
            remedy: None,
        }
    }

    /// Something that somebody should look at.
    pub fn warn(name: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            grade: Grade::Warn,
            remedy: Some(remedy.into()),
            ..Self::ok(name, text)
        }
    }

    /// Something that does not work.
    pub fn fail(name: &str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            grade: Grade::Fail,
            ..Self::warn(name, text, remedy)
        }
    }
}

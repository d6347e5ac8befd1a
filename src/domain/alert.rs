//! Receivers of alerts, as an operator names them.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::forward::{Destination, InvalidDestination};
use super::secret::Secret;

/// Prefix of a receiver that reads messages as Slack does.
const SLACK: &str = "slack:";

/// Format of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON with one field for each fact, signed as Standard Webhooks say.
    Standard,
    /// `{"text": …}`, as Slack, Mattermost and Rocket.Chat read it.
    Slack,
}

/// A receiver of alerts. Written as its URL, with `slack:` in front for [`Format::Slack`]. Its URL may be a secret:
/// `Display` shows the host only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// The URL that gets the posts.
    pub url: Destination,
    /// The format that it reads.
    pub format: Format,
}

impl Receiver {
    /// Name by which the database knows the receiver. The URL cannot be computed from it.
    pub fn id(&self) -> String {
        let format = match self.format {
            Format::Standard => "",
            Format::Slack => SLACK,
        };
        let digest = Sha256::digest(format!("{format}{}", self.url));
        digest[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl FromStr for Receiver {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, InvalidDestination> {
        let (format, url) = match text.strip_prefix(SLACK) {
            Some(url) => (Format::Slack, url),
            None => (Format::Standard, text),
        };
        let url = url.parse()?;
        Ok(Self { url, format })
    }
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.format {
            Format::Standard => "",
            Format::Slack => SLACK,
        };
        let scheme = self.url.uri().scheme_str().unwrap_or_default();
        write!(f, "{prefix}{scheme}://{}", self.url.authority())
    }
}

/// Receivers of a node's alerts, and the secret that signs the posts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alerts {
    /// The receivers; without any, nothing is posted.
    pub receivers: Vec<Receiver>,
    /// Secret that signs; needed by [`Format::Standard`].
    pub secret: Option<Secret>,
}

impl Alerts {
    /// True if a receiver expects signatures but there is no secret.
    pub fn lacks_secret(&self) -> bool {
        let is_signed = |receiver: &Receiver| receiver.format == Format::Standard;
        self.secret.is_none() && self.receivers.iter().any(is_signed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_is_read_and_shown_without_its_path() {
        let plain: Receiver = "https://ops.example/secret".parse().unwrap();
        assert_eq!(plain.format, Format::Standard);
        assert_eq!(plain.to_string(), "https://ops.example");
        let slack: Receiver = "slack:https://ops.example/secret".parse().unwrap();
        assert_eq!(slack.format, Format::Slack);
        assert_eq!(slack.url, plain.url);
        assert_eq!(slack.to_string(), "slack:https://ops.example");
        assert_ne!(slack.id(), plain.id());
        for wrong in ["", "slack:", "ops.example", "ftp://x", "https://me:pw@x"] {
            assert!(wrong.parse::<Receiver>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_signed_posts_need_a_secret() {
        let alerts = |text: &str| Alerts {
            receivers: vec![text.parse().unwrap()],
            secret: None,
        };
        assert!(alerts("https://ops.example/").lacks_secret());
        assert!(!alerts("slack:https://ops.example/").lacks_secret());
        assert!(!Alerts::default().lacks_secret());
    }
}

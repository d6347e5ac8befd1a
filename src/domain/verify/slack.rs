//! Slack: `X-Slack-Signature: v0=HEX`, HMAC-SHA256 over `v0:SECONDS:body`.
//! <https://docs.slack.dev/authentication/verifying-requests-from-slack>

use super::claim::{
    Algorithm, Claim, Rejected, Request, hex, malformed, seconds, signatures, text,
};

const SIGNATURE: &str = "x-slack-signature";
const TIME: &str = "x-slack-request-timestamp";

/// Reads the claim of a request.
pub fn claim<'r>(request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
    let value = text(request, SIGNATURE)?;
    let time = text(request, TIME)?;
    let at = seconds(time).ok_or_else(|| malformed(TIME, "it is no number"))?;
    let found = value.strip_prefix("v0=");
    let signatures = signatures(SIGNATURE, found.into_iter(), hex)?;
    let message = vec![
        b"v0:".as_slice().into(),
        time.as_bytes().into(),
        b":".as_slice().into(),
        request.body.into(),
    ];
    Ok(Claim::new(Algorithm::HmacSha256, message, signatures).at(at))
}

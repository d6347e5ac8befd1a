//! HubSpot, version 3: `X-HubSpot-Signature-v3: BASE64`, HMAC-SHA256 over method, URL, body and time.
//! <https://developers.hubspot.com/docs/api/webhooks/validating-requests>

use std::borrow::Cow;

use super::claim::{Algorithm, Claim, Rejected, Request, base64, malformed, signatures, text};
use crate::domain::time::Timestamp;

const SIGNATURE: &str = "x-hubspot-signature-v3";
const TIME: &str = "x-hubspot-request-timestamp";

/// Characters that HubSpot signs unencoded in the URL.
const DECODED: [(&str, &str); 12] = [
    ("%3A", ":"),
    ("%2F", "/"),
    ("%3F", "?"),
    ("%40", "@"),
    ("%21", "!"),
    ("%24", "$"),
    ("%27", "'"),
    ("%28", "("),
    ("%29", ")"),
    ("%2A", "*"),
    ("%2C", ","),
    ("%3B", ";"),
];

/// Reads the claim of a request.
pub fn claim<'r>(request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
    let value = text(request, SIGNATURE)?;
    let time = text(request, TIME)?;
    let at: i64 = time
        .parse()
        .map_err(|_| malformed(TIME, "it is no number"))?;
    let signatures = signatures(SIGNATURE, std::iter::once(value), base64)?;
    let message = vec![
        request.method.as_bytes().into(),
        decoded(request.url),
        request.body.into(),
        time.as_bytes().into(),
    ];
    let claim = Claim::new(Algorithm::HmacSha256, message, signatures);
    Ok(claim.at(Timestamp::from_millis(at)))
}

fn decoded(url: &str) -> Cow<'_, [u8]> {
    if !url.contains('%') {
        return url.as_bytes().into();
    }
    let mut text = url.to_owned();
    for (escape, plain) in DECODED {
        text = text.replace(escape, plain);
        text = text.replace(&escape.to_ascii_lowercase(), plain);
    }
    text.into_bytes().into()
}

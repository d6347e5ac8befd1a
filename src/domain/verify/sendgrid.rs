//! SendGrid's event webhook: `X-Twilio-Email-Event-Webhook-Signature: BASE64`, ECDSA on P-256 over the time and the
//! body. The secret is the public key that SendGrid shows.
//! <https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features>

use super::claim::{
    Algorithm, Claim, Rejected, Request, base64, malformed, seconds, signatures, text,
};

const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
const TIME: &str = "x-twilio-email-event-webhook-timestamp";

/// Reads the claim of a request.
pub fn claim<'r>(request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
    let value = text(request, SIGNATURE)?;
    let time = text(request, TIME)?;
    let at = seconds(time).ok_or_else(|| malformed(TIME, "it is no number"))?;
    let signatures = signatures(SIGNATURE, std::iter::once(value), base64)?;
    let message = vec![time.as_bytes().into(), request.body.into()];
    Ok(Claim::new(Algorithm::EcdsaP256, message, signatures).at(at))
}

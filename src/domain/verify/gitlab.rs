//! GitLab: `X-Gitlab-Token` is the secret itself. Neither body nor time is signed.
//! <https://docs.gitlab.com/user/project/integrations/webhooks/#validate-payloads-by-using-a-secret-token>

use super::claim::{Algorithm, Claim, Rejected, Request, header};

const TOKEN: &str = "x-gitlab-token";

/// Reads the claim of a request.
pub fn claim<'r>(request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
    let token = header(request, TOKEN)?.to_vec();
    Ok(Claim::new(Algorithm::Token, Vec::new(), vec![token]))
}

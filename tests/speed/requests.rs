//! Requests as bytes, laid out beforehand: sending one copies a head and a body and writes a number.

use std::io::Write;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The length of every body.
pub const BODY: usize = 512;

/// A request to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Takes an event: the `number`th that is sent in this world.
    Post { hook: u32, number: u32 },
    /// Shows the state once it has reached `seq`.
    State { hook: u32, seq: i64 },
}

/// The amount in the event of this number.
pub fn amount(number: u32) -> i64 {
    i64::from(number % 100)
}

/// Number in the body of an event that came alone.
pub fn number(body: &[u8]) -> Option<u32> {
    let digits = body.get(NUMBER..NUMBER + 8)?;
    std::str::from_utf8(digits).ok()?.trim().parse().ok()
}

/// Renders requests for a list of hooks.
pub struct Requests {
    hooks: Vec<String>,
    heads: Vec<Vec<u8>>,
    body: Vec<u8>,
    read_key: String,
    /// Key of signatures, whose digits end each head.
    signing: Option<Hmac<Sha256>>,
}

/// Length of the end of a head with a signature: its digits, and the empty line.
const SIGNATURE: usize = 64 + 4;

/// Place of the digits in a body. Blanks may stand before a number in JSON, so fields are fixed.
const CUSTOMER: usize = r#"{"customer":""#.len();
const NUMBER: usize = r#"{"customer":"00000000","number":"#.len();
const AMOUNT: usize = r#"{"customer":"00000000","number":00000000,"amount":"#.len();

impl Requests {
    pub fn new(hooks: Vec<String>, write_key: &str, read_key: &str) -> Self {
        let head = |hook: &String| {
            format!(
                "POST /in/{hook} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {write_key}\r\n\
                 content-type: application/json\r\ncontent-length: {BODY}\r\n\r\n"
            )
        };
        let mut body = br#"{"customer":"00000000","number":       0,"amount": 0,"pad":""#.to_vec();
        body.resize(BODY - 2, b'x');
        body.extend_from_slice(b"\"}");
        Self {
            heads: hooks.iter().map(|hook| head(hook).into_bytes()).collect(),
            hooks,
            body,
            read_key: read_key.to_owned(),
            signing: None,
        }
    }

    /// Requests with the signature of GitHub instead of a key.
    pub fn signed(hooks: Vec<String>, secret: &str) -> Self {
        let mut requests = Self::new(hooks, "", "");
        let head = |hook: &String| {
            format!(
                "POST /in/{hook} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
                 content-length: {BODY}\r\nx-hub-signature-256: sha256={}\r\n\r\n",
                "0".repeat(64)
            )
        };
        let heads = requests.hooks.iter().map(|hook| head(hook).into_bytes());
        requests.heads = heads.collect();
        requests.signing = Hmac::new_from_slice(secret.as_bytes()).ok();
        requests
    }

    /// Number of hooks.
    pub fn hooks(&self) -> u32 {
        u32::try_from(self.hooks.len()).unwrap()
    }

    /// Writes the bytes of `ask` over what is in `out`.
    pub fn render(&mut self, ask: Ask, out: &mut Vec<u8>) {
        out.clear();
        match ask {
            Ask::Post { hook, number } => {
                write!(&mut self.body[CUSTOMER..], "{number:08}").unwrap();
                write!(&mut self.body[NUMBER..], "{number:8}").unwrap();
                write!(&mut self.body[AMOUNT..], "{:2}", amount(number)).unwrap();
                out.extend_from_slice(&self.heads[hook as usize]);
                if let Some(signing) = &self.signing {
                    let signature = signing.clone().chain_update(&self.body).finalize();
                    let mut at = out.len() - SIGNATURE;
                    for byte in signature.into_bytes() {
                        write!(&mut out[at..], "{byte:02x}").unwrap();
                        at += 2;
                    }
                }
                out.extend_from_slice(&self.body);
            }
            Ask::State { hook, seq } => {
                let (hook, key) = (&self.hooks[hook as usize], &self.read_key);
                write!(
                    out,
                    "GET /v1/hooks/{hook}/state?min_seq={seq}&wait=5s HTTP/1.1\r\nhost: 127.0.0.1\r\n\
                     authorization: Bearer {key}\r\n\r\n"
                )
                .unwrap();
            }
        }
    }
}

//! The custom scheme `hmac:`, for senders without a built-in scheme:
//! `hmac:header=X-Signature,algorithm=sha256,encoding=hex,prefix=sha256=,time=X-Time,signed={header:x-time}.{body}`.
//!
//! `header` is required. Defaults of the others: sha256, hex, no prefix, no time, `{body}`. `signed`
//! must be last because it may contain commas; it takes `{body}`, `{url}`, `{method}` and
//! `{header:NAME}`.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;

use super::claim::{
    Algorithm, Claim, Rejected, Request, base64, header, hex, malformed, signatures, text,
};
use crate::domain::time::Timestamp;

/// Length limit of the text of a scheme, in bytes.
const TEXT_MAX: usize = 500;

/// Larger times are read as milliseconds; as seconds this would be the year 5138.
const SECONDS_MAX: i64 = 100_000_000_000;

/// A signature scheme defined by an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Custom {
    header: String,
    algorithm: Algorithm,
    is_hex: bool,
    prefix: String,
    time: Option<String>,
    signed: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Body,
    Url,
    Method,
    Header(String),
}

/// Error for a text that is not a custom scheme: the fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0}; write hmac:header=NAME,algorithm=sha1|sha256|sha512,encoding=hex|base64,prefix=TEXT,time=HEADER,signed=TEMPLATE"
)]
pub struct InvalidCustom(String);

impl Custom {
    /// Reads the claim of a request.
    pub fn claim<'r>(&self, request: &Request<'r>) -> Result<Claim<'r>, Rejected> {
        let name = &self.header;
        let value = text(request, name)?;
        let found = value.strip_prefix(&*self.prefix);
        let decode = if self.is_hex { hex } else { base64 };
        let signatures = signatures(name, found.into_iter(), decode)?;
        let parts = self.signed.iter().map(|part| match part {
            Part::Text(text) => Ok(text.clone().into_bytes().into()),
            Part::Body => Ok(request.body.into()),
            Part::Url => Ok(request.url.as_bytes().into()),
            Part::Method => Ok(request.method.as_bytes().into()),
            Part::Header(name) => header(request, name).map(Into::into),
        });
        let message = parts.collect::<Result<_, _>>()?;
        let claim = Claim::new(self.algorithm, message, signatures);
        match &self.time {
            None => Ok(claim),
            Some(name) => {
                let at = time(text(request, name)?);
                Ok(claim.at(at.ok_or_else(|| malformed(name, "it is no time"))?))
            }
        }
    }

    /// Name of the scheme in tables.
    pub fn word(&self) -> &'static str {
        match self.algorithm {
            Algorithm::HmacSha1 => "hmac-sha1",
            Algorithm::HmacSha512 => "hmac-sha512",
            _ => "hmac-sha256",
        }
    }

    /// True if the signature covers the URL.
    pub fn signs_url(&self) -> bool {
        self.signed.contains(&Part::Url)
    }

    /// True if the signature covers a time, that is, if the header with the time is among the signed
    /// parts.
    pub fn signs_time(&self) -> bool {
        self.time.is_some()
    }
}

/// Parses seconds or milliseconds since 1970, or RFC 3339.
fn time(text: &str) -> Option<Timestamp> {
    match text.parse::<i64>() {
        Ok(number) if number.abs() < SECONDS_MAX => Some(Timestamp::from_millis(number * 1_000)),
        Ok(number) => Some(Timestamp::from_millis(number)),
        Err(_) => text.parse().ok(),
    }
}

impl FromStr for Custom {
    type Err = InvalidCustom;

    /// Parses the parts after `hmac:`.
    fn from_str(text: &str) -> Result<Self, InvalidCustom> {
        let wrong = |what: String| InvalidCustom(what);
        if text.len() > TEXT_MAX {
            return Err(wrong(format!("longer than {TEXT_MAX} bytes")));
        }
        let mut custom = Self {
            header: String::new(),
            algorithm: Algorithm::HmacSha256,
            is_hex: true,
            prefix: String::new(),
            time: None,
            signed: vec![Part::Body],
        };
        let mut rest = text;
        while !rest.is_empty() {
            let (name, after) = rest
                .split_once('=')
                .ok_or_else(|| wrong(format!("{rest:?} is not NAME=VALUE")))?;
            let (value, next) = match name {
                "signed" => (after, ""),
                _ => after.split_once(',').unwrap_or((after, "")),
            };
            custom.set(name, value).map_err(wrong)?;
            rest = next;
        }
        match (&*custom.header, &custom.time) {
            ("", _) => Err(wrong("the header of the signature is not given".to_owned())),
            (_, Some(time)) if !custom.signed.contains(&Part::Header(time.clone())) => {
                let what =
                    format!("the time in {time} is not signed: put {{header:{time}}} into signed=");
                Err(wrong(what))
            }
            _ if !custom.signed.contains(&Part::Body) => Err(wrong(
                "the body is not signed: put {body} into signed=".to_owned(),
            )),
            _ => Ok(custom),
        }
    }
}

impl Custom {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "header" => self.header = header_name(value)?,
            "time" => self.time = Some(header_name(value)?),
            "prefix" => self.prefix = value.to_owned(),
            "signed" => self.signed = template(value)?,
            "algorithm" => {
                self.algorithm = match value {
                    "sha1" => Algorithm::HmacSha1,
                    "sha256" => Algorithm::HmacSha256,
                    "sha512" => Algorithm::HmacSha512,
                    _ => return Err(format!("algorithm {value:?} is not sha1, sha256 or sha512")),
                }
            }
            "encoding" => {
                self.is_hex = match value {
                    "hex" => true,
                    "base64" => false,
                    _ => return Err(format!("encoding {value:?} is not hex or base64")),
                }
            }
            _ => return Err(format!("there is no part {name:?}")),
        }
        Ok(())
    }
}

fn header_name(text: &str) -> Result<String, String> {
    let name: Result<HeaderName, _> = text.parse();
    name.map(|name| name.as_str().to_owned())
        .map_err(|_| format!("{text:?} is not a header's name"))
}

fn template(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, next) = after
            .split_once('}')
            .ok_or_else(|| "a { in signed= has no }".to_owned())?;
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        parts.push(match (inside, inside.strip_prefix("header:")) {
            ("body", _) => Part::Body,
            ("url", _) => Part::Url,
            ("method", _) => Part::Method,
            (_, Some(name)) => Part::Header(header_name(name)?),
            _ => return Err(format!("signed= knows no {{{inside}}}")),
        });
        rest = next;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

impl fmt::Display for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = match self.algorithm {
            Algorithm::HmacSha1 => "sha1",
            Algorithm::HmacSha512 => "sha512",
            _ => "sha256",
        };
        let encoding = if self.is_hex { "hex" } else { "base64" };
        write!(
            f,
            "header={},algorithm={algorithm},encoding={encoding}",
            self.header
        )?;
        if !self.prefix.is_empty() {
            write!(f, ",prefix={}", self.prefix)?;
        }
        if let Some(time) = &self.time {
            write!(f, ",time={time}")?;
        }
        f.write_str(",signed=")?;
        for part in &self.signed {
            match part {
                Part::Text(text) => f.write_str(text)?,
                Part::Body => f.write_str("{body}")?,
                Part::Url => f.write_str("{url}")?,
                Part::Method => f.write_str("{method}")?,
                Part::Header(name) => write!(f, "{{header:{name}}}")?,
            }
        }
        Ok(())
    }
}

//! Finds the sender of a request that proxies have passed on, from `X-Forwarded-For`
//! (<https://developer.mozilla.org/docs/Web/HTTP/Reference/Headers/X-Forwarded-For>) and `Forwarded`
//! (RFC 7239, <https://www.rfc-editor.org/rfc/rfc7239>). Plain functions.
//!
//! Each proxy adds the address of its client at the right; everything to the left of that may be
//! invented. So the walk begins at the peer of the connection and goes on to the next address at the
//! right only while the present one is a trusted proxy. It ends at the rightmost address that is not
//! trusted, and never looks at what is left of it.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};

use crate::domain::network::Networks;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Reason why the sender of a request is unknown, although a trusted proxy passed it on.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unclear {
    /// A header cannot be read at a place that a trusted proxy wrote.
    #[error("the {0} header of the trusted proxy cannot be read")]
    Malformed(&'static str),
    /// The headers name different senders, and only one of them is the proxy's.
    #[error(
        "X-Forwarded-For and Forwarded name different senders: let the proxy remove the one that it does not write"
    )]
    Differing,
}

/// One client as its proxy names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hop {
    Address(IpAddr),
    /// The proxy does not tell: `unknown`, or a name of its own such as `_gazonk`.
    Untold,
}

/// The address of the sender; `peer` if the peer is not in `trusted` or tells nothing.
///
/// # Errors
/// [`Unclear`] only for requests of trusted peers. Such a request should be refused: with any address in
/// its place, a sender could choose by which one it is judged.
pub fn sender(headers: &HeaderMap, peer: IpAddr, trusted: &Networks) -> Result<IpAddr, Unclear> {
    let peer = peer.to_canonical();
    if !trusted.contain(peer) {
        return Ok(peer);
    }
    let by_list = match headers.contains_key(X_FORWARDED_FOR) {
        true => Some(walk(peer, list(headers).into_iter(), trusted)?),
        false => None,
    };
    let by_pairs = match headers.contains_key(http::header::FORWARDED) {
        true => Some(walk(peer, pairs(headers)?.into_iter().map(Ok), trusted)?),
        false => None,
    };
    match (by_list, by_pairs) {
        (Some(one), Some(other)) if one != other => Err(Unclear::Differing),
        (one, other) => Ok(one.or(other).unwrap_or(peer)),
    }
}

/// Follows the hops, the nearest first, as far as they are told by trusted proxies.
fn walk(
    peer: IpAddr,
    hops: impl Iterator<Item = Result<Hop, Unclear>>,
    trusted: &Networks,
) -> Result<IpAddr, Unclear> {
    let mut sender = peer;
    for hop in hops {
        if !trusted.contain(sender) {
            break;
        }
        match hop? {
            Hop::Address(ip) => sender = ip,
            Hop::Untold => break,
        }
    }
    Ok(sender)
}

/// The hops of `X-Forwarded-For`, the nearest first. Several lines are one list.
fn list(headers: &HeaderMap) -> Vec<Result<Hop, Unclear>> {
    let lines: Vec<_> = headers.get_all(X_FORWARDED_FOR).iter().collect();
    let parts = lines.iter().rev();
    let parts = parts.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let parts = parts.map(<[u8]>::trim_ascii);
    let parts = parts.filter(|part| !part.is_empty());
    let hops = parts.map(|part| hop(part).ok_or(Unclear::Malformed("X-Forwarded-For")));
    hops.collect()
}

/// The hops of `Forwarded`, the nearest first. Text in quotation marks may hold commas, so a header is
/// read from its left, and is malformed as a whole if any part is.
fn pairs(headers: &HeaderMap) -> Result<Vec<Hop>, Unclear> {
    let mut hops = Vec::new();
    for line in headers.get_all(http::header::FORWARDED) {
        let found = elements(line.as_bytes()).ok_or(Unclear::Malformed("Forwarded"))?;
        hops.extend(found);
    }
    hops.reverse();
    Ok(hops)
}

/// The hops of one `Forwarded` line, the farthest first; `None` if it is malformed.
fn elements(line: &[u8]) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let (hop, after) = element(rest)?;
        hops.extend(hop);
        rest = after;
    }
    Some(hops)
}

/// The first element of `rest`, which ends at a comma, and the bytes after it. An empty element is no
/// hop.
fn element(mut rest: &[u8]) -> Option<(Option<Hop>, &[u8])> {
    let (mut named, mut is_empty) = (None, true);
    loop {
        rest = rest.trim_ascii_start();
        match rest.split_first() {
            None => break,
            Some((b',', after)) => {
                rest = after.trim_ascii_start();
                break;
            }
            Some((b';', after)) => rest = after,
            Some(_) => {
                let (name, value, after) = pair(rest)?;
                is_empty = false;
                if name.eq_ignore_ascii_case(b"for") && named.replace(hop(&value)?).is_some() {
                    return None;
                }
                rest = after.trim_ascii_start();
                if !matches!(rest.first(), None | Some(b',' | b';')) {
                    return None;
                }
            }
        }
    }
    let hop = named.or((!is_empty).then_some(Hop::Untold));
    Some((hop, rest))
}

/// A `name=value` at the beginning of `bytes`, and the bytes after it.
fn pair(bytes: &[u8]) -> Option<(&[u8], Vec<u8>, &[u8])> {
    let (name, rest) = token(bytes)?;
    let rest = rest.strip_prefix(b"=")?;
    if let Some(text) = rest.strip_prefix(b"\"") {
        let (value, after) = quoted(text)?;
        return Some((name, value, after));
    }
    let (value, after) = token(rest)?;
    Some((name, value.to_vec(), after))
}

/// A token of RFC 9110, 5.6.2, at the beginning of `bytes`, and the bytes after it.
fn token(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let end = bytes.iter().position(|byte| !is_part(byte));
    let (token, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
    (!token.is_empty()).then_some((token, rest))
}

/// The text up to the closing quotation mark, and the bytes after it.
fn quoted(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [b'"', after @ ..] => return Some((text, after)),
            [b'\\', byte, after @ ..] => {
                text.push(*byte);
                rest = after;
            }
            [byte, after @ ..] if *byte != b'\\' => {
                text.push(*byte);
                rest = after;
            }
            _ => return None,
        }
    }
}

/// An address with or without a port, or a word for an address that is not told.
fn hop(bytes: &[u8]) -> Option<Hop> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.eq_ignore_ascii_case("unknown") || text.starts_with('_') {
        return Some(Hop::Untold);
    }
    let ip = unbracketed(text).parse().ok();
    let ip = ip.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    let ip = ip.or_else(|| with_untold_port(text));
    ip.map(|ip: IpAddr| Hop::Address(ip.to_canonical()))
}

/// The address before a port of the form `_name`.
fn with_untold_port(text: &str) -> Option<IpAddr> {
    let (host, _) = text.split_once(":_")?;
    unbracketed(host).parse().ok()
}

/// A host without the brackets around an IPv6 address.
fn unbracketed(host: &str) -> &str {
    let inner = host.strip_prefix('[');
    let inner = inner.and_then(|inner| inner.strip_suffix(']'));
    inner.unwrap_or(host)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TRUSTED: &str = "10.0.0.0/8 2001:db8:cafe::/48";

    fn found(peer: &str, headers: &[(&str, &str)]) -> Result<String, Unclear> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        let peer = peer.parse().unwrap();
        sender(&map, peer, &TRUSTED.parse().unwrap()).map(|ip| ip.to_string())
    }

    #[test]
    fn a_peer_that_is_not_trusted_is_the_sender_whatever_it_says() {
        for headers in [
            &[("x-forwarded-for", "192.0.2.1")][..],
            &[("forwarded", "for=192.0.2.1")],
            &[("x-forwarded-for", "?")],
            &[("forwarded", "for=\"")],
            &[
                ("x-forwarded-for", "192.0.2.1"),
                ("forwarded", "for=192.0.2.2"),
            ],
        ] {
            assert_eq!(found("203.0.113.9", headers).unwrap(), "203.0.113.9");
        }
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_sender() {
        for (list, sender) in [
            ("192.0.2.1", "192.0.2.1"),
            ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
            ("6.6.6.6,192.0.2.1 , 10.9.9.9", "192.0.2.1"),
            ("garbage, 192.0.2.1, 10.9.9.9", "192.0.2.1"),
            ("10.1.1.1, 10.2.2.2", "10.1.1.1"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, unknown", "10.0.0.1"),
            ("192.0.2.1,,", "192.0.2.1"),
            ("", "10.0.0.1"),
        ] {
            let said = found("10.0.0.1", &[("x-forwarded-for", list)]);
            assert_eq!(said.unwrap(), sender, "{list}");
        }
        let lines = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-for", "10.3.3.3"),
        ];
        assert_eq!(found("::ffff:10.0.0.1", &lines).unwrap(), "192.0.2.1");
        assert_eq!(found("10.0.0.1", &[]).unwrap(), "10.0.0.1");
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        for (pairs, sender) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("For=\"[2001:db8::17]:4711\"", "2001:db8::17"),
            ("for=6.6.6.6, for=198.51.100.17", "198.51.100.17"),
            ("for=192.0.2.43, for=\"[2001:db8:cafe::17]\"", "192.0.2.43"),
            ("for=\"192.0.2.1:_port\"", "192.0.2.1"),
            ("for=\"\\1\\92.0.2.1\"", "192.0.2.1"),
            ("proto=https;for=192.0.2.1", "192.0.2.1"),
            ("for=\"_gazonk\"", "10.0.0.1"),
            ("for=unknown", "10.0.0.1"),
            ("for=192.0.2.1, proto=https", "10.0.0.1"),
            ("host=\"a, for=6.6.6.6\";for=192.0.2.1", "192.0.2.1"),
            ("", "10.0.0.1"),
        ] {
            let said = found("10.0.0.1", &[("forwarded", pairs)]);
            assert_eq!(said.unwrap(), sender, "{pairs}");
        }
    }

    #[test]
    fn a_trusted_proxy_that_is_not_understood_is_refused() {
        for list in ["garbage", "192.0.2.1, 1.2.3", "192.0.2.1;", "[::1"] {
            let said = found("10.0.0.1", &[("x-forwarded-for", list)]);
            assert_eq!(said, Err(Unclear::Malformed("X-Forwarded-For")), "{list}");
        }
        for pairs in [
            "192.0.2.1",
            "for=",
            "for=\"192.0.2.1",
            "for=\"a\", for=192.0.2.1",
            "for=192.0.2.1;for=192.0.2.1",
            "for=192.0.2.1 proto=http",
            "for=2001:db8::7",
            "for=\"\\",
            // A client's open quotation mark must not hide the address that the proxy adds.
            "for=\", for=192.0.2.1",
        ] {
            let said = found("10.0.0.1", &[("forwarded", pairs)]);
            assert_eq!(said, Err(Unclear::Malformed("Forwarded")), "{pairs}");
        }
        let both = [
            ("x-forwarded-for", "192.0.2.1"),
            ("forwarded", "for=6.6.6.6"),
        ];
        assert_eq!(found("10.0.0.1", &both), Err(Unclear::Differing));
        let same = [
            ("x-forwarded-for", "192.0.2.1"),
            ("forwarded", "for=6.6.6.6, for=192.0.2.1"),
        ];
        assert_eq!(found("10.0.0.1", &same).unwrap(), "192.0.2.1");
    }
}

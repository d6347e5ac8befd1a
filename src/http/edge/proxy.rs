//! Reads the header of the PROXY protocol, versions 1 and 2, with which a proxy of bytes names its
//! client at the beginning of a connection
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
//!
//! Promises: not a byte after the header is read; a header has at most [`HEADER_MAX`] bytes. The caller
//! limits the time, and asks only peers that it trusts.

use std::io;
use std::net::IpAddr;

use ppp::{v1, v2};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Size limit of a header, in bytes. Version 1 has 107 at most; version 2 has 232 for the largest
/// addresses, and then fields of its own.
const HEADER_MAX: usize = 2_048;

/// Size limit of a header of version 1, in bytes.
const LINE_MAX: usize = 107;

/// Length of the part of version 2 before the addresses, in bytes.
const FIXED: usize = 16;

/// Beginning of a header of version 1.
const LINE: &[u8] = b"PROXY ";

/// Sender of a connection, from a complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxySource {
    /// The address of the client.
    Client(IpAddr),
    /// The connection is the proxy's own, such as a check that the node lives, or the header has no address.
    Unnamed,
}

/// Progress of reading a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// At least this many more bytes belong to it.
    Wants(usize),
    /// All bytes up to a line feed belong to it.
    WantsLine,
    Complete,
    Malformed,
}

/// Reads the header at the beginning of `stream`; `None` if there is no valid one.
pub async fn read(stream: &mut TcpStream) -> io::Result<Option<ProxySource>> {
    let mut header = Vec::with_capacity(LINE_MAX);
    loop {
        let more = match progress(&header) {
            Progress::Complete => return Ok(source(&header)),
            Progress::Malformed => return Ok(None),
            Progress::Wants(more) => more,
            Progress::WantsLine => to_line_end(stream, LINE_MAX - header.len()).await?,
        };
        let from = header.len();
        header.resize(from + more, 0);
        stream.read_exact(&mut header[from..]).await?;
    }
}

/// Number of bytes that have arrived, up to and with a line feed. They stay unread.
async fn to_line_end(stream: &TcpStream, most: usize) -> io::Result<usize> {
    let mut arrived = [0; LINE_MAX];
    let arrived = &mut arrived[..most];
    let count = stream.peek(arrived).await?;
    let end = arrived[..count].iter().position(|byte| *byte == b'\n');
    match end.map_or(count, |end| end + 1) {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        more => Ok(more),
    }
}

/// Judges the bytes that were read. The shortest header, `PROXY UNKNOWN`, is longer than the beginning
/// by which the versions are told apart.
fn progress(header: &[u8]) -> Progress {
    let magic = v2::PROTOCOL_PREFIX;
    if header.len() < magic.len() {
        return Progress::Wants(magic.len() - header.len());
    }
    if header.starts_with(LINE) {
        return match header.ends_with(b"\n") {
            true => Progress::Complete,
            false if header.len() >= LINE_MAX => Progress::Malformed,
            false => Progress::WantsLine,
        };
    }
    if !header.starts_with(magic) {
        return Progress::Malformed;
    }
    let Some(fixed) = header.get(..FIXED) else {
        return Progress::Wants(FIXED - header.len());
    };
    let length = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    match length.checked_sub(header.len()) {
        _ if length > HEADER_MAX => Progress::Malformed,
        None | Some(0) => Progress::Complete,
        Some(more) => Progress::Wants(more),
    }
}

/// The client in a complete header; `None` if the header is malformed.
fn source(header: &[u8]) -> Option<ProxySource> {
    if header.starts_with(LINE) {
        let line = v1::Header::try_from(header).ok()?;
        return Some(match line.addresses {
            v1::Addresses::Tcp4(addresses) => ProxySource::Client(addresses.source_address.into()),
            v1::Addresses::Tcp6(addresses) => ProxySource::Client(addresses.source_address.into()),
            v1::Addresses::Unknown => ProxySource::Unnamed,
        });
    }
    let header = v2::Header::try_from(header).ok()?;
    Some(match (header.command, header.addresses) {
        (v2::Command::Local, _) => ProxySource::Unnamed,
        (_, v2::Addresses::IPv4(addresses)) => ProxySource::Client(addresses.source_address.into()),
        (_, v2::Addresses::IPv6(addresses)) => ProxySource::Client(addresses.source_address.into()),
        (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => ProxySource::Unnamed,
    })
}

/// The client that complete bytes tell, as [`read`] would, for tests.
#[cfg(test)]
pub(super) fn read_bytes(bytes: &[u8]) -> Option<(ProxySource, usize)> {
    let mut len = 0;
    loop {
        let more = match progress(bytes.get(..len)?) {
            Progress::Complete => return source(&bytes[..len]).map(|source| (source, len)),
            Progress::Malformed => return None,
            Progress::Wants(more) => more,
            Progress::WantsLine => {
                let rest = &bytes[len..bytes.len().min(LINE_MAX)];
                let end = rest.iter().position(|byte| *byte == b'\n');
                end.map_or(rest.len(), |end| end + 1)
            }
        };
        if more == 0 {
            return None;
        }
        len += more;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn client(ip: &str) -> Option<ProxySource> {
        Some(ProxySource::Client(ip.parse().unwrap()))
    }

    /// A header of version 2, whose length is that of `rest`.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[command, family], &length, rest].concat()
    }

    #[test]
    fn a_header_ends_where_its_version_says() {
        for (line, told) in [
            ("PROXY TCP4 192.0.2.1 10.0.0.1 4711 80", client("192.0.2.1")),
            ("PROXY TCP6 2001:db8::1 ::1 1 65535", client("2001:db8::1")),
            ("PROXY UNKNOWN", Some(ProxySource::Unnamed)),
        ] {
            let header = format!("{line}\r\n");
            let sent = format!("{header}GET / HTTP/1.1\r\n");
            let read = read_bytes(sent.as_bytes());
            assert_eq!(read.map(|(_, len)| len), Some(header.len()), "{line}");
            assert_eq!(read.map(|(told, _)| told), told, "{line}");
        }
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        let mut sent = binary(0x21, 0x11, &v4);
        let len = sent.len();
        sent.extend(b"GET /");
        assert_eq!(read_bytes(&sent).unwrap().1, len);
        assert_eq!(read_bytes(&sent).map(|(told, _)| told), client("192.0.2.1"));
        let local = binary(0x20, 0x11, &v4);
        assert_eq!(read_bytes(&local).unwrap().0, ProxySource::Unnamed);
        let more = [&v4[..], &[0xee; 200]].concat();
        let told = read_bytes(&binary(0x21, 0x11, &more)).unwrap().0;
        assert_eq!(Some(told), client("192.0.2.1"));
    }

    #[test]
    fn what_is_no_header_is_refused_within_its_bounds() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 4711 99999\r\n",
            "PROXY TCP4 192.0.2 10.0.0.1 4711 80\r\n",
            "PROXY TCP5 192.0.2.1 10.0.0.1 4711 80\r\n",
            "PROXY \u{e9}\u{e9}\u{e9}\u{e9}\r\n",
        ] {
            assert_eq!(read_bytes(line.as_bytes()), None, "{line}");
        }
        let long = [b"PROXY ".to_vec(), vec![b'x'; 5_000]].concat();
        assert_eq!(progress(&long[..LINE_MAX]), Progress::Malformed);
        let huge = binary(0x21, 0x11, &vec![0; HEADER_MAX]);
        assert_eq!(progress(&huge[..FIXED]), Progress::Malformed);
        let short = binary(0x21, 0x21, &[0; 12]);
        assert_eq!(read_bytes(&short), None, "the addresses of IPv6 are longer");
        assert_eq!(read_bytes(&binary(0x11, 0x11, &[0; 12])), None);
    }
}

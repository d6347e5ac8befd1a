//! Ranges of network addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Ranges of addresses. Written as CIDR ranges with spaces between them, such as `10.0.0.0/8
/// 2001:db8::/32`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

/// A text that is not a range of addresses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a range of addresses such as 10.1.0.0/16")]
pub struct InvalidRange(String);

/// Parses a range of addresses; a single address is a range of one. An IPv4 address in the form of IPv6
/// is the IPv4 address.
///
/// # Errors
/// [`InvalidRange`] with the text.
pub fn range(text: &str) -> Result<IpNet, InvalidRange> {
    let one = |text: &str| {
        text.parse::<IpAddr>()
            .map(|ip| IpNet::from(ip.to_canonical()))
    };
    let parsed = text.parse::<IpNet>().or_else(|_| one(text));
    parsed.map_err(|_| InvalidRange(text.chars().take(80).collect()))
}

impl Networks {
    /// True if there is no range.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }

    /// True if `ip` is in a range. An IPv4 address in the form of IPv6 is the IPv4 address.
    pub fn contain(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|range| range.contains(&ip))
    }
}

impl From<Vec<IpNet>> for Networks {
    fn from(ranges: Vec<IpNet>) -> Self {
        Self(ranges)
    }
}

impl FromStr for Networks {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let ranges = text.split_ascii_whitespace().map(range);
        ranges.collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, range) in self.0.iter().enumerate() {
            let space = if n > 0 { " " } else { "" };
            write!(f, "{space}{range}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_a_range_in_either_of_its_forms() {
        let ranges: Networks = "10.1.0.0/16 192.0.2.7 2001:db8::/32".parse().unwrap();
        for (ip, is_in) in [
            ("10.1.255.255", true),
            ("10.2.0.0", false),
            ("::ffff:10.1.0.1", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8:1::9", true),
            ("2001:db9::9", false),
        ] {
            assert_eq!(ranges.contain(ip.parse().unwrap()), is_in, "{ip}");
        }
        assert!(!Networks::default().contain("10.1.0.1".parse().unwrap()));
    }

    #[test]
    fn ranges_are_read_as_they_are_written() {
        let text = "10.1.0.0/16 192.0.2.7/32";
        assert_eq!(text.parse::<Networks>().unwrap().to_string(), text);
        assert_eq!("".parse::<Networks>().unwrap(), Networks::default());
        for wrong in ["10.1.0.0/33", "ten", "10.0.0.0/8,10.1.0.0/16", "::1/129"] {
            assert!(wrong.parse::<Networks>().is_err(), "{wrong}");
        }
    }
}

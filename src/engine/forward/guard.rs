//! Addresses that a delivery may reach: a guard against server-side request forgery.
//!
//! A user who may configure a hook chooses a URL that the node fetches from inside its network. So each
//! address is checked when connecting, and the connection uses the checked address: DNS rebinding has
//! no effect. Sources: IANA special-purpose registries (RFC 6890), RFC 6052 (translated addresses), and
//! the metadata addresses documented by large clouds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Metadata services of clouds. They return credentials, so no flag permits them.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Permitted addresses: all public ones, and the ranges that the node's operator allows.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    allowed: Vec<IpNet>,
}

impl Guard {
    /// A guard that permits public addresses and those in `allowed`.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// A guard that permits every address except those of metadata services: for URLs that the operator of the node
    /// chose.
    pub fn of_operator() -> Self {
        let all = [
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::from(Ipv6Addr::UNSPECIFIED),
        ];
        let all = all.map(|address| IpNet::new(address, 0));
        Self::new(all.into_iter().flatten().collect())
    }

    /// True if a delivery may connect to `address`.
    pub fn lets(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        if METADATA.contains(&address) {
            return false;
        }
        is_public(address) || self.allowed.iter().any(|range| range.contains(&address))
    }
}

/// The IPv4 address inside a mapped, compatible or translated IPv6 address: packets go there.
fn canonical(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let last = |v6: Ipv6Addr| {
        let [.., a, b, c, d] = v6.octets();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        // ::ffff:0:0/96, and ::/96 except :: and ::1
        [0, 0, 0, 0, 0, 0xffff, ..] => last(v6),
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) != (0, 0) && (high, low) != (0, 1) => last(v6),
        // 64:ff9b::/96
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => last(v6),
        // 2002::/16 has the IPv4 address after the prefix
        [0x2002, high, low, ..] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        _ => address,
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let is_special = match v4.octets() {
        [0 | 10 | 127, ..] => true,
        // Shared by carriers, IETF protocols, benchmarks, reserved.
        [100, second, ..] if second & 0xc0 == 64 => true,
        [192, 0, 0, _] => true,
        [198, 18 | 19, ..] => true,
        [240..=255, ..] => true,
        _ => false,
    };
    !(is_special
        || v4.is_private()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_documentation())
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    // Only 2000::/3 is allocated; it contains Teredo and the documentation ranges.
    let in_use = v6.segments()[0] & 0xe000 == 0x2000;
    let is_special = matches!(
        v6.segments(),
        [0x2001, 0..0x200 | 0xdb8, ..] | [0x3fff, 0..0x1000, ..]
    );
    in_use && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lets(guard: &Guard, text: &str) -> bool {
        guard.lets(text.parse().unwrap())
    }

    #[test]
    fn only_public_addresses_are_reached() {
        let guard = Guard::default();
        for public in [
            "93.184.216.34",
            "1.1.1.1",
            "2606:4700:4700::1111",
            "64:ff9b::1.1.1.1",
        ] {
            assert!(lets(&guard, public), "{public}");
        }
        for denied in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.1.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "64:ff9b:1::1",
        ] {
            assert!(!lets(&guard, denied), "{denied}");
        }
    }

    #[test]
    fn a_flag_allows_ranges_but_never_metadata() {
        let ranges = ["127.0.0.0/8", "169.254.0.0/16", "::1/128", "fd00::/8"];
        let guard = Guard::new(ranges.map(|range| range.parse().unwrap()).to_vec());
        for allowed in [
            "127.0.0.1",
            "::ffff:127.0.0.1",
            "169.254.1.1",
            "::1",
            "fd00::1",
        ] {
            assert!(lets(&guard, allowed), "{allowed}");
        }
        for denied in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
            "10.0.0.1",
        ] {
            assert!(!lets(&guard, denied), "{denied}");
        }
    }
}

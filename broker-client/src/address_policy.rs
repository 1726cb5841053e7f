//! Which addresses an origin's connections may lead to, whatever its name resolves to at that moment: an attacker who
//! answers for a name must not lead the agent, and its credential, to this machine or to a cloud's metadata service.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

/// What is refused unless it is named; clones are cheap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    named: Arc<[IpNet]>,
}

/// Why an address is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address} is {kind}, where no origin may lead (if this one must: name it in origin-addresses.allow{})",
    .kind.hint()
)]
pub(crate) struct RefusedAddress {
    address: IpAddr,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unspecified,
    Loopback,
    LinkLocal,
    Metadata,
    Multicast,
    Broadcast,
}

impl Kind {
    fn hint(self) -> &'static str {
        match self {
            Self::Loopback => ", or write localhost or the address itself as the rule's origin",
            Self::Unspecified
            | Self::LinkLocal
            | Self::Metadata
            | Self::Multicast
            | Self::Broadcast => "",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "no host's address",
            Self::Loopback => "this machine itself",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud's metadata service",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
        })
    }
}

impl AddressPolicy {
    /// A policy that also permits these networks.
    #[must_use]
    pub fn naming(networks: Vec<IpNet>) -> Self {
        Self {
            named: networks.into(),
        }
    }

    /// Whether a connection to the host of an origin, as its rule writes it, may lead to this address.
    pub(crate) fn permit(&self, host: &str, address: IpAddr) -> Result<(), RefusedAddress> {
        let is_named = |address: &IpAddr| self.named.iter().any(|net| net.contains(address));
        if is_named(&address) {
            return Ok(());
        }
        let names_loopback = is_this_machine(host);
        for inner in readings(address) {
            match kind(inner) {
                None => {}
                Some(Kind::Loopback) if names_loopback => {}
                Some(_) if is_named(&inner) => {}
                Some(kind) => return Err(RefusedAddress { address, kind }),
            }
        }
        Ok(())
    }
}

/// Whether a host is on this machine by its very name, whatever a resolver says.
pub(crate) fn is_this_machine(host: &str) -> bool {
    match literal(host) {
        Some(address) => address.to_canonical().is_loopback(),
        None => {
            let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

/// Whether a host is written as an address that a cloud answers at for this machine alone.
pub(crate) fn is_metadata(host: &str) -> bool {
    let is_near = |address| matches!(kind(address), Some(Kind::LinkLocal | Kind::Metadata));
    literal(host).is_some_and(is_near)
}

/// The address that a host is written as, with or without an IPv6 address's brackets.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    without_brackets(host).parse().ok()
}

/// A host without the brackets that an IPv6 address has in a URL (RFC 3986 §3.2.2).
pub(crate) fn without_brackets(host: &str) -> &str {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host)
}

/// Whether a resolver, or a proxy, could take a host for an IPv4 address in one of its old forms: `127.1`,
/// `2130706433`, `0x7f.0.0.1` (WHATWG URL, "ends in a number").
pub(crate) fn is_shortened_address(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let is_number = match hexadecimal {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()),
    };
    is_number && literal(host).is_none()
}

fn kind(address: IpAddr) -> Option<Kind> {
    let kinds: [(bool, Kind); 6] = match address {
        IpAddr::V4(v4) => [
            (METADATA_V4.contains(&v4), Kind::Metadata),
            // "This network" (RFC 1122 §3.2.1.3); Linux takes 0.0.0.0 for itself.
            (v4.octets().starts_with(&[0]), Kind::Unspecified),
            (v4.is_loopback(), Kind::Loopback),
            (v4.is_link_local(), Kind::LinkLocal),
            (v4.is_multicast(), Kind::Multicast),
            (v4.is_broadcast(), Kind::Broadcast),
        ],
        IpAddr::V6(v6) => [
            (is_metadata_v6(v6), Kind::Metadata),
            (v6.is_unspecified(), Kind::Unspecified),
            (v6.is_loopback(), Kind::Loopback),
            (v6.is_unicast_link_local(), Kind::LinkLocal),
            (v6.is_multicast(), Kind::Multicast),
            (false, Kind::Broadcast),
        ],
    };
    kinds.into_iter().find_map(|(is, kind)| is.then_some(kind))
}

/// Where clouds hand out credentials to whoever asks: AWS, Google, Azure and others; Alibaba; Oracle; Azure's platform.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];

/// AWS keeps fd00:ec2::/32 for its services on a machine; Google's is fd20:ce::254.
fn is_metadata_v6(v6: Ipv6Addr) -> bool {
    v6.segments().starts_with(&[0xfd00, 0x0ec2])
        || v6 == Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254)
}

/// The address, and every IPv4 address that a network could take out of it.
fn readings(address: IpAddr) -> Vec<IpAddr> {
    let mut readings = vec![address];
    if let IpAddr::V6(v6) = address {
        readings.extend(embedded(v6).into_iter().map(IpAddr::V4));
    }
    readings
}

fn embedded(v6: Ipv6Addr) -> Vec<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    let [a, b, c, d, e, f, g, h] = v6.segments();
    match [a, b, c, d, e, f] {
        // Mapped and compatible (RFC 4291 §2.5.5), and NAT64's well-known prefix (RFC 6052 §2.1). `::` and `::1` are
        // addresses of their own.
        [0, 0, 0, 0, 0, 0] if (g, h) == (0, 0) || (g, h) == (0, 1) => vec![],
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => vec![v4(g, h)],
        // NAT64's local prefix (RFC 8215) is divided as its network likes: behind 48, 56, 64 or 96 bits (RFC 6052 §2.2,
        // in which bits 64 to 71 are skipped). What is zero to one of these is another's empty part.
        [0x64, 0xff9b, 1, ..] => [
            v4(d, (e << 8) | (f >> 8)),
            v4((d << 8) | (e & 0xff), f),
            v4((e << 8) | (f >> 8), (f << 8) | (g >> 8)),
            v4(g, h),
        ]
        .into_iter()
        .filter(|v4| !v4.octets().starts_with(&[0]))
        .collect(),
        // 6to4 (RFC 3056 §2), and Teredo's server and client (RFC 4380 §4).
        [0x2002, ..] => vec![v4(b, c)],
        [0x2001, 0, ..] => vec![v4(c, d), v4(!g, !h)],
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(policy: &AddressPolicy, host: &str, address: &str) -> Option<Kind> {
        let permit = policy.permit(host, address.parse().unwrap());
        permit.err().map(|refused| refused.kind)
    }

    #[test]
    fn ordinary_addresses_are_permitted_and_special_ones_are_not() {
        let policy = AddressPolicy::default();
        for (address, expected) in [
            ("10.0.0.1", None),
            ("172.16.0.1", None),
            ("192.168.1.1", None),
            ("100.64.0.1", None),
            ("203.0.113.7", None),
            ("fd12:3456::1", None),
            ("2001:db8::1", None),
            ("0.0.0.0", Some(Kind::Unspecified)),
            ("0.1.2.3", Some(Kind::Unspecified)),
            ("::", Some(Kind::Unspecified)),
            ("127.0.0.1", Some(Kind::Loopback)),
            ("127.255.255.254", Some(Kind::Loopback)),
            ("::1", Some(Kind::Loopback)),
            ("169.254.1.1", Some(Kind::LinkLocal)),
            ("169.254.170.2", Some(Kind::LinkLocal)),
            ("fe80::1", Some(Kind::LinkLocal)),
            ("febf::1", Some(Kind::LinkLocal)),
            ("169.254.169.254", Some(Kind::Metadata)),
            ("100.100.100.200", Some(Kind::Metadata)),
            ("192.0.0.192", Some(Kind::Metadata)),
            ("168.63.129.16", Some(Kind::Metadata)),
            ("fd00:ec2::254", Some(Kind::Metadata)),
            ("fd00:ec2::23", Some(Kind::Metadata)),
            ("fd20:ce::254", Some(Kind::Metadata)),
            ("224.0.0.1", Some(Kind::Multicast)),
            ("239.255.255.250", Some(Kind::Multicast)),
            ("ff02::1", Some(Kind::Multicast)),
            ("255.255.255.255", Some(Kind::Broadcast)),
        ] {
            assert_eq!(
                verdict(&policy, "tool.corp", address),
                expected,
                "{address}"
            );
        }
    }

    #[test]
    fn an_address_inside_an_address_counts() {
        let policy = AddressPolicy::default();
        for (address, expected) in [
            ("::ffff:169.254.169.254", Some(Kind::Metadata)),
            ("::ffff:127.0.0.1", Some(Kind::Loopback)),
            ("::ffff:10.0.0.1", None),
            ("::127.0.0.1", Some(Kind::Loopback)),
            ("64:ff9b::a9fe:a9fe", Some(Kind::Metadata)),
            ("64:ff9b::10.0.0.1", None),
            ("64:ff9b:1::169.254.169.254", Some(Kind::Metadata)),
            ("64:ff9b:1::10.0.0.1", None),
            ("64:ff9b:1:a00:0:100::", None),
            // 169.254.169.254 behind 48, 56 and 64 bits.
            ("64:ff9b:1:a9fe:a9:fe00::", Some(Kind::Metadata)),
            ("64:ff9b:1:aaa9:fe:a9fe:0:0", Some(Kind::Metadata)),
            ("64:ff9b:1:aaaa:a9:fea9:fe00:0", Some(Kind::Metadata)),
            ("2002:a9fe:a9fe::1", Some(Kind::Metadata)),
            ("2002:7f00:1::1", Some(Kind::Loopback)),
            ("2002:a00:1::1", None),
            // Teredo: 169.254.169.254 as its client, inverted, and as its server.
            ("2001:0:4136:e378:8000:63bf:5601:5601", Some(Kind::Metadata)),
            ("2001:0:a9fe:a9fe:8000:63bf:3fff:fdd2", Some(Kind::Metadata)),
        ] {
            assert_eq!(
                verdict(&policy, "tool.corp", address),
                expected,
                "{address}"
            );
        }
    }

    #[test]
    fn this_machine_is_reached_only_where_the_origin_names_it() {
        let policy = AddressPolicy::default();
        for host in [
            "localhost",
            "LocalHost.",
            "app.localhost",
            "127.0.0.1",
            "127.9.9.9",
            "[::1]",
            "[::ffff:127.0.0.1]",
        ] {
            assert_eq!(verdict(&policy, host, "127.0.0.1"), None, "{host}");
            assert_eq!(verdict(&policy, host, "::1"), None, "{host}");
            let metadata = verdict(&policy, host, "169.254.169.254");
            assert_eq!(metadata, Some(Kind::Metadata), "{host}");
        }
        for host in ["localhost.corp", "127.0.0.1.nip.io", "10.0.0.1", "0.0.0.0"] {
            let loopback = verdict(&policy, host, "127.0.0.1");
            assert_eq!(loopback, Some(Kind::Loopback), "{host}");
        }
    }

    #[test]
    fn what_is_named_is_permitted_also_inside_another_address() {
        let policy = AddressPolicy::naming(vec![
            "169.254.10.0/24".parse().unwrap(),
            "fe80::/10".parse().unwrap(),
        ]);
        for address in [
            "169.254.10.1",
            "::ffff:169.254.10.1",
            "64:ff9b::a9fe:a01",
            "fe80::1",
        ] {
            assert_eq!(verdict(&policy, "tool.corp", address), None, "{address}");
        }
        let other = verdict(&policy, "tool.corp", "169.254.11.1");
        assert_eq!(other, Some(Kind::LinkLocal));
    }

    #[test]
    fn old_ways_of_writing_an_address_are_told_from_names() {
        for host in [
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "0X7F000001",
            "tool.0x",
            "10.0.0.256",
            "1.2.3.4.5",
        ] {
            assert!(is_shortened_address(host), "{host}");
        }
        for host in [
            "127.0.0.1",
            "[::1]",
            "tool1",
            "tool.corp",
            "1.tool",
            "0xg",
            "10.0.0.1.nip.io",
        ] {
            assert!(!is_shortened_address(host), "{host}");
        }
    }

    #[test]
    fn a_refusal_says_which_address_why_and_what_to_do() {
        let refused = AddressPolicy::default().permit("tool.corp", Ipv4Addr::LOCALHOST.into());
        assert_eq!(
            refused.unwrap_err().to_string(),
            "127.0.0.1 is this machine itself, where no origin may lead (if this one must: name it in \
             origin-addresses.allow, or write localhost or the address itself as the rule's origin)"
        );
    }
}

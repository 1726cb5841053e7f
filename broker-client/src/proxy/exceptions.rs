//! `NO_PROXY`: what is reached without a proxy.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::address_policy::without_brackets;

/// The entries of a `NO_PROXY`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exceptions(Vec<Exception>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    /// None: any.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    Every,
    Network(IpNet),
    /// This name and all below it; in lower case.
    Domain(String),
}

impl Exceptions {
    /// Reads a list that is divided by commas or spaces, of names (`corp`, `.corp` and `*.corp` are each that name and
    /// all below it), addresses, networks (`10.0.0.0/8`) and `*`, each with `:port` or without; and gives the entries
    /// that mean nothing.
    #[must_use]
    pub fn parse(text: &str) -> (Self, Vec<&str>) {
        let mut read = Vec::new();
        let mut unread = Vec::new();
        let entries = text.split(|c: char| c == ',' || c.is_ascii_whitespace());
        for entry in entries.filter(|entry| !entry.is_empty()) {
            match exception(entry) {
                Some(exception) => read.push(exception),
                None => unread.push(entry),
            }
        }
        (Self(read), unread)
    }

    /// Whether the host, as it is written, is reached without a proxy; it is not resolved.
    pub(crate) fn has(&self, host: &str, port: u16) -> bool {
        let host = plain(host);
        let address: Option<IpAddr> = host.parse().ok();
        self.0.iter().any(|exception| {
            let is_meant = match (&exception.hosts, address) {
                (Hosts::Every, _) => true,
                (Hosts::Network(network), Some(address)) => {
                    network.contains(&address.to_canonical())
                }
                (Hosts::Domain(domain), None) => is_below(&host, domain),
                (Hosts::Network(_), None) | (Hosts::Domain(_), Some(_)) => false,
            };
            is_meant && exception.port.is_none_or(|only| only == port)
        })
    }
}

/// In lower case, without an IPv6 address's brackets or a name's last dot.
fn plain(host: &str) -> String {
    let host = without_brackets(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn is_below(host: &str, domain: &str) -> bool {
    let above = host.strip_suffix(domain);
    above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
}

fn exception(entry: &str) -> Option<Exception> {
    if let Some(hosts) = hosts(entry) {
        return Some(Exception { hosts, port: None });
    }
    let (host, port) = entry.rsplit_once(':')?;
    Some(Exception {
        hosts: hosts(host)?,
        port: Some(port.parse().ok()?),
    })
}

fn hosts(text: &str) -> Option<Hosts> {
    if text == "*" {
        return Some(Hosts::Every);
    }
    let host = plain(text);
    if let Ok(network) = host.parse::<IpNet>() {
        return Some(Hosts::Network(network));
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(Hosts::Network(address.to_canonical().into()));
    }
    let domain = host.strip_prefix('*').unwrap_or(&host);
    let domain = domain.strip_prefix('.').unwrap_or(domain);
    let is_name = domain
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    // What ends in a number is an address that is not written out, such as `10.0`.
    let is_number = domain
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    (is_name && !is_number).then(|| Hosts::Domain(domain.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_mean_what_other_programs_make_of_them() {
        for (entry, host, port, expected) in [
            ("corp", "corp", 443, true),
            ("corp", "sonar.corp", 443, true),
            (".corp", "sonar.corp", 443, true),
            ("*.corp", "a.sonar.CORP.", 443, true),
            (".corp", "corp", 443, true),
            ("corp", "evilcorp", 443, false),
            ("sonar.corp", "corp", 443, false),
            ("sonar.corp:9000", "sonar.corp", 9000, true),
            ("sonar.corp:9000", "sonar.corp", 443, false),
            ("10.1.2.3", "10.1.2.3", 443, true),
            ("10.1.2.3", "10.1.2.30", 443, false),
            ("10.0.0.0/8", "10.200.0.1", 443, true),
            ("10.0.0.0/8", "11.0.0.1", 443, false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", 443, true),
            ("10.0.0.0/8:8080", "10.200.0.1", 8080, true),
            ("10.0.0.0/8:8080", "10.200.0.1", 443, false),
            ("10.0.0.0/8", "ten.corp", 443, false),
            ("fd00::/8", "fd00::1", 443, true),
            ("fd00::1", "[fd00::1]", 443, true),
            ("[fd00::1]:8443", "fd00::1", 8443, true),
            ("[fd00::1]:8443", "fd00::1", 443, false),
            ("*", "anything.example", 1, true),
            ("*:80", "anything.example", 80, true),
            ("*:80", "anything.example", 443, false),
        ] {
            let (exceptions, unread) = Exceptions::parse(entry);
            assert_eq!(unread, [""; 0], "{entry}");
            assert_eq!(
                exceptions.has(host, port),
                expected,
                "{entry} {host}:{port}"
            );
        }
    }

    #[test]
    fn a_list_is_divided_by_commas_and_spaces() {
        let (exceptions, unread) = Exceptions::parse("a.corp, b.corp c.corp,,\t d.corp ");
        assert_eq!(unread, [""; 0]);
        for host in ["a.corp", "b.corp", "c.corp", "d.corp"] {
            assert!(exceptions.has(host, 443), "{host}");
        }
        assert!(!exceptions.has("e.corp", 443));
        assert!(!Exceptions::default().has("a.corp", 443));
    }

    #[test]
    fn an_entry_that_means_nothing_is_told_and_the_others_count() {
        let (exceptions, unread) =
            Exceptions::parse("10.0.*,a.corp,10.0,host:port,http://x,10.0.0.0/33");
        assert_eq!(
            unread,
            ["10.0.*", "10.0", "host:port", "http://x", "10.0.0.0/33"]
        );
        assert!(exceptions.has("a.corp", 443));
    }
}

//! What stands on the way: proxies, authorities, and the addresses that origins may have.

use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;

use broker_process::settings::{Setting, Settings, shown};
use broker_process::tls;
use ipnet::IpNet;

use super::{Exceptions, Proxies, ProxyChoice, table};

pub(super) fn proxies(settings: &Settings<'_>, warnings: &mut Vec<String>) -> Proxies {
    let except = settings.optional(&table::NO_PROXY, |text| {
        let (exceptions, unread) = Exceptions::parse(text);
        let entries = unread.iter().map(|entry| shown(entry));
        Ok::<_, Infallible>((exceptions, entries.collect::<Vec<_>>()))
    });
    let (except, unread) = except.unwrap_or_default();
    if let Some(place) = settings
        .place(&table::NO_PROXY)
        .filter(|_| !unread.is_empty())
    {
        warnings.push(format!(
            "{place}: {} is no name, address, network or `*`, and exempts nothing from the proxy",
            unread.join(", ")
        ));
    }
    Proxies {
        http: settings.optional(&table::HTTP_PROXY, str::parse),
        https: settings.optional(&table::HTTPS_PROXY, str::parse),
        except,
    }
}

pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let entries = text.split(',').map(str::trim);
    let network = |entry: &str| {
        let address = entry.parse::<IpAddr>().map(IpNet::from);
        entry.parse::<IpNet>().or(address).map_err(|_| {
            format!(
                "{} is neither a network nor an address (write 169.254.10.0/24, or several with commas between)",
                shown(entry)
            )
        })
    };
    entries.map(network).collect()
}

pub(super) fn proxy_choice(settings: &Settings<'_>, setting: &Setting) -> ProxyChoice {
    settings.optional(setting, str::parse).unwrap_or_default()
}

/// A file of authorities, read once now so that a broken one is told before anything starts.
pub(super) fn authorities(settings: &Settings<'_>, setting: &Setting) -> Option<PathBuf> {
    let path = settings.path(setting)?;
    if let Err(error) = tls::read_certificates(&path) {
        settings.refuse(setting, error);
    }
    Some(path)
}

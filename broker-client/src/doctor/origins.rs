//! The ways to the origins, hop by hop, as requests take them.

use futures_util::future::join_all;
use http::Uri;
use http::uri::Scheme;

use super::report::{Section, Stop};
use super::{shown_addresses, to_proxy};
use crate::origin::Steps;
use crate::rules::{Destination, Rules};

const HOPS: &[&str] = &["dns", "tcp", "proxy", "tls"];
/// What the caller of a request would be told (docs/troubleshooting.md).
const CODE: Option<&str> = Some("origin-unreachable");

/// Goes the way to each origin of the rules, all at the same time.
pub(super) async fn check(whose: &str, rules: &Rules) -> Vec<Section> {
    let destinations = rules.destinations().into_iter();
    join_all(destinations.map(|destination| one(whose, destination))).await
}

async fn one(whose: &str, destination: Destination<'_>) -> Section {
    let subject = format!(
        "{whose}origin {} of {}",
        destination.origin,
        destination.shown_rules()
    );
    let mut section = Section::new(subject, HOPS);
    let origin = Uri::builder()
        .scheme(destination.origin.scheme().clone())
        .authority(destination.origin.authority().clone())
        .path_and_query("/")
        .build()
        .expect("an origin's parts are those of a URL");
    // What stopped it stands in the section.
    drop(go(&origin, destination.client.steps(), &mut section).await);
    section.finish()
}

async fn go(origin: &Uri, steps: &Steps, section: &mut Section) -> Result<(), Stop> {
    let is_tls = origin.scheme() == Some(&Scheme::HTTPS);
    if let Some(way) = steps.proxy() {
        to_proxy(way, steps.limit(), section).await?;
    } else {
        let addresses = steps.addresses(origin).await;
        let addresses = addresses.map_err(|error| section.fail("dns", CODE, error))?;
        section.pass("dns", shown_addresses(&addresses));
    }
    let connection = steps.connect(origin).await;
    let hop = if steps.proxy().is_some() {
        "proxy"
    } else {
        "tcp"
    };
    let connection = connection.map_err(|error| section.fail(hop, CODE, error))?;
    match steps.proxy() {
        None => {
            section.pass("tcp", "connected");
            section.pass("proxy", "none on the way");
        }
        Some(way) if is_tls => section.pass("proxy", format!("{} leads there", way.proxy)),
        Some(way) => section.pass(
            "proxy",
            format!(
                "{} reads the requests; only one of them shows what it does with them",
                way.proxy
            ),
        ),
    }
    let peer = steps.secure(origin, connection).await;
    match peer.map_err(|error| section.fail("tls", CODE, error))? {
        None => section.pass("tls", "not used, since the origin says so"),
        Some(peer) if peer.ends_soon() => section.warn("tls", peer),
        Some(peer) => section.pass("tls", peer),
    }
    Ok(())
}

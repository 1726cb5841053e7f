//! Opening a port, with an error that an operator can act on.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::settings::Setting;

/// A port that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({places}): {}", reason(.source))]
pub struct BindError {
    address: SocketAddr,
    places: String,
    source: io::Error,
}

/// Opens `address`, which `setting` gave.
///
/// # Errors
/// If it cannot be opened; the message names the address, the setting and the way out.
pub async fn bind(setting: &Setting, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError {
            address,
            places: setting.places(),
            source,
        })
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has this port; stop that one or set another port".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; use a port from 1024 up or give the process CAP_NET_BIND_SERVICE"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have this address; use one of its own or 0.0.0.0".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTEN: Setting =
        Setting::new("local.listen", "ADDRESS", "").env(&["BROKER_LOCAL_LISTEN", "PORT"]);

    #[tokio::test]
    async fn a_taken_port_names_address_and_setting() {
        let first = bind(&LISTEN, "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(&LISTEN, address).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot listen on {address} (local.listen, BROKER_LOCAL_LISTEN, PORT, --local-listen): \
                 another process has this port; stop that one or set another port"
            )
        );
    }
}

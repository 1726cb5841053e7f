//! What both broker programs do the same way as processes: settings, logging, TLS material, binding ports, signals.
//!
//! A program declares each of its settings once, as a [`Setting`](settings::Setting) in a
//! [`Table`](settings::Table); the command line, the layering of flag, environment, file and default, the messages and
//! the reference are made from that. [`Settings`](settings::Settings) then hands out typed values and collects everything that is wrong, so that one start names it all.
//!
//! This crate knows nothing of tunnels, rules, agents or callers.
//!
//! ```
//! use broker_process::settings::{Environment, Group, Setting, Settings, Table};
//!
//! const COUNT: Setting = Setting::new("tunnel.count", "N", "How many").env(&["TUNNEL_COUNT"]).default("2");
//! static TABLE: Table = Table {
//!     config: Setting::unfiled("config", "FILE", "The settings file"),
//!     groups: &[Group { title: "Tunnel", settings: &[COUNT], sections: &[] }],
//! };
//!
//! let arguments = TABLE.arguments(clap::Command::new("run")).get_matches_from(["run"]);
//! let environment = Environment::from([("TUNNEL_COUNT", "four")]);
//! let settings = Settings::gather(&TABLE, &arguments, &environment, "/etc/broker".as_ref())?;
//! let _count: u8 = settings.value(&COUNT, broker_process::settings::integer(1..=16));
//! let error = settings.finish().unwrap_err();
//! assert_eq!(error.to_string(), r#"environment TUNNEL_COUNT: "four" is not a whole number (use 1 to 16)"#);
//! # Ok::<(), broker_process::settings::SettingsError>(())
//! ```

pub mod bind;
pub mod certificate_name;
pub mod exit;
pub mod hardening;
pub mod listener;
pub mod logging;
pub mod regular_file;
pub mod settings;
pub mod signals;
pub mod threads;
pub mod tls;

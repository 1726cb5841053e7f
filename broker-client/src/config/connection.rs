//! The connections: each is one agent of this process, with its server, secret, rules and tunnels.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use broker_process::settings::{Fields, Node, Setting, Settings, boolean, integer};
use broker_protocol::{AccessToken, AgentName, TokenKind};
use zeroize::Zeroizing;

use super::origins::{origins, origins_at};
use super::{Origins, ServerUrl, Timeouts, table};
use crate::accept_file::AcceptFile;

/// The rules' file where none is named; customers' working folders hold one under this name today.
const DEFAULT_ACCEPT: &str = "accept.json";
/// The most connections of one process: what status and health answers show stays within their limits.
const MOST: usize = 64;

pub(super) const NO_NAME: &str =
    "this agent has no name (set BROKER_TOKEN, --agent, or `connections` in the settings file)";
pub(super) const NO_SERVER: &str = "no server to dial (set BROKER_SERVER_URL=https://…, --server, or `server` in the settings file)";
const PLAINTEXT: &str = "http:// and ws:// are for this machine alone, since everything is readable on the way (use \
                         https://, or set tunnel.insecure-plaintext: true)";

/// One agent of this process.
pub struct Connection {
    /// The name under which callers reach it; no other of this process has the same.
    pub agent: AgentName,
    /// The server to dial.
    pub server: ServerUrl,
    /// What admits the agent; absent where the server admits it by its network.
    pub secret: Option<AccessToken>,
    /// The rules.
    pub accept: Accept,
    /// How many tunnels are kept open, 1 to 16.
    pub tunnels: u8,
    /// What holds for one origin alone, by the origin's text as its rule writes it, unexpanded.
    pub origins: Origins,
    /// Whether it starts paused, and stays so.
    pub is_paused: bool,
}

/// Names the agent and its server and no more: the keys of `origins` can hold passwords.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("agent", &self.agent)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// Where the rules come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accept {
    /// Nobody wrote any: nothing may pass.
    DenyAll,
    /// This file, which could be opened at start.
    File(PathBuf),
}

/// All connections that the settings name, those in which something is wrong left out; that is noted. Where a server
/// on another machine would be dialled without TLS, `may_be_plain` says whether it may.
pub(super) fn connections(
    settings: &Settings<'_>,
    folder: &Path,
    timeouts: Timeouts,
    may_be_plain: bool,
) -> Vec<Connection> {
    let stated = Stated::all(settings, folder, timeouts);
    let mut connections: Vec<Connection> = Vec::with_capacity(stated.len());
    for stated in stated {
        // Each part is asked for, so that all that is wrong is told at once.
        let (agent, server) = (stated.name(), stated.server(may_be_plain));
        let (secret, accept) = (stated.secret(), stated.accept());
        let (tunnels, origins) = (stated.tunnels(), stated.origins());
        let is_paused = stated.is_paused();
        let (Some(agent), Some(server)) = (agent, server) else {
            continue;
        };
        if connections.iter().any(|other| other.agent == agent) {
            stated.refuse(
                "name",
                &table::AGENT,
                &format!("another connection is called {agent} as well (give each its own name)"),
            );
            continue;
        }
        connections.push(Connection {
            agent,
            server,
            secret,
            accept,
            tunnels,
            origins,
            is_paused,
        });
    }
    connections
}

/// One connection as it is written down. Each part is read when it is asked for, and what is wrong with it is noted
/// then: commands that need no agent look at some parts alone.
pub(super) struct Stated<'s> {
    settings: &'s Settings<'s>,
    /// What relative paths outside the settings file are relative to.
    folder: &'s Path,
    timeouts: Timeouts,
    /// Its entry in the settings file's list; without one, variables and flags say all of it.
    entry: Option<(Node<'s>, Fields<'s>)>,
}

/// Which connection a command is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which<'a> {
    /// There is but one, or the operator must say.
    Only,
    /// The operator said.
    Named(&'a AgentName),
    /// A record of the audit log says, where there are several.
    Recorded(&'a str),
}

impl<'s> Stated<'s> {
    /// Every connection of the settings: the entries of their list, or the one of variables and flags.
    pub(super) fn all(
        settings: &'s Settings<'s>,
        folder: &'s Path,
        timeouts: Timeouts,
    ) -> Vec<Self> {
        let stated = |entry| Self {
            settings,
            folder,
            timeouts,
            entry,
        };
        let Some(list) = settings.section(&table::CONNECTIONS) else {
            return vec![stated(None)];
        };
        for setting in [
            &table::AGENT,
            &table::SECRET,
            &table::SECRET_FILE,
            &table::ACCEPT,
        ] {
            if settings.place(setting).is_some() {
                let (place, instead) = (list.place(), "each of them has its own");
                settings.refuse(
                    setting,
                    format!("{place} are given too, and {instead} (remove one of the two)"),
                );
            }
        }
        let entries = list.items();
        if list.is_list() && !(1..=MOST).contains(&entries.len()) {
            list.problem(format!(
                "{} connections (name 1 to {MOST}, each as {{name: …, server: …, secret-file: …, accept: …}}; without \
                 `connections`, variables and flags say which one there is)",
                entries.len()
            ));
        }
        entries
            .into_iter()
            .map(|entry| {
                let fields = entry.fields(&[
                    "name",
                    "server",
                    "secret-file",
                    "accept",
                    "tunnel",
                    "origins",
                    "paused",
                ]);
                stated(Some((entry, fields)))
            })
            .collect()
    }

    /// The one that a command is about; where that cannot be told, that is noted.
    pub(super) fn choose(
        settings: &'s Settings<'s>,
        folder: &'s Path,
        timeouts: Timeouts,
        which: Which<'_>,
    ) -> Option<Self> {
        let mut all = Self::all(settings, folder, timeouts);
        let is_listed = all.iter().any(|stated| stated.entry.is_some());
        if let (Which::Named(_), false) = (which, is_listed) {
            settings.problem(
                "--agent: the settings name no `connections`, so there is nothing to choose from (leave it out)",
            );
            return None;
        }
        let wanted = match which {
            Which::Named(name) => name.as_str(),
            Which::Recorded(name) if all.len() > 1 => name,
            Which::Recorded(_) | Which::Only if all.len() == 1 => return all.pop(),
            Which::Recorded(_) | Which::Only => "",
        };
        let names: Vec<Option<AgentName>> = all.iter().map(Self::name).collect();
        let place = names
            .iter()
            .position(|name| name.as_ref().is_some_and(|name| name.as_str() == wanted));
        let Some(place) = place else {
            let known: Vec<_> = names.iter().flatten().map(AgentName::as_str).collect();
            let known = known.join(", ");
            settings.problem(match wanted {
                "" => format!("the settings name several connections (say which is meant: --agent with one of {known})"),
                wanted => format!("no connection is called {wanted:?} (say which is meant: --agent with one of {known})"),
            });
            return None;
        };
        Some(all.swap_remove(place))
    }

    fn name(&self) -> Option<AgentName> {
        match &self.entry {
            None => self.settings.required(&table::AGENT, NO_NAME, agent_name),
            Some((node, fields)) => match fields.get("name") {
                Some(name) => name.read(agent_name),
                None => {
                    node.problem("no name (write name: and under which callers reach this agent)");
                    None
                }
            },
        }
    }

    fn server(&self, may_be_plain: bool) -> Option<ServerUrl> {
        let own = self.field("server");
        let server = match own {
            Some(own) => own.read(str::parse),
            None => self
                .settings
                .required(&table::SERVER, NO_SERVER, str::parse::<ServerUrl>),
        }?;
        if !server.is_tls() && !server.is_loopback() && !may_be_plain {
            self.refuse("server", &table::SERVER, PLAINTEXT);
            return None;
        }
        Some(server)
    }

    fn secret(&self) -> Option<AccessToken> {
        if self.entry.is_some() {
            let node = self.field("secret-file")?;
            return token_at(&node.path()?)
                .map_err(|error| node.problem(error))
                .ok();
        }
        let settings = self.settings;
        let in_variable = settings.optional(&table::SECRET, |text| {
            AccessToken::parse(TokenKind::Agent, text)
        });
        let Some(path) = settings.path(&table::SECRET_FILE) else {
            return in_variable;
        };
        if settings.place(&table::SECRET).is_some() {
            settings.refuse(
                &table::SECRET_FILE,
                "BROKER_AGENT_SECRET is set as well (keep one of the two)",
            );
            return None;
        }
        token_at(&path)
            .map_err(|error| settings.refuse(&table::SECRET_FILE, error))
            .ok()
    }

    /// Only the one connection of variables and flags finds a file that nobody named: several would share it.
    pub(super) fn accept(&self) -> Accept {
        let settings = self.settings;
        let path = if self.entry.is_some() {
            let named = self.field("accept");
            named.and_then(|node| node.read(no_url).and_then(|()| node.path()))
        } else if settings.place(&table::ACCEPT).is_some() {
            let named = settings.optional(&table::ACCEPT, no_url);
            named.and_then(|()| settings.path(&table::ACCEPT))
        } else {
            Some(self.folder.join(DEFAULT_ACCEPT)).filter(|path| !is_absent(path))
        };
        let Some(path) = path else {
            return Accept::DenyAll;
        };
        if let Err(error) = AcceptFile::read(&path) {
            self.refuse("accept", &table::ACCEPT, &error.to_string());
        }
        Accept::File(path)
    }

    fn tunnels(&self) -> u8 {
        let count = integer(1..=16);
        let own = self.field("tunnel").and_then(|node| {
            let fields = node.fields(&["count"]);
            fields.get("count")?.read(&count)
        });
        own.unwrap_or_else(|| self.settings.value(&table::TUNNEL_COUNT, &count))
    }

    fn is_paused(&self) -> bool {
        let own = self.field("paused").and_then(|node| node.read(boolean));
        own.unwrap_or_else(|| self.settings.value(&table::PAUSED, boolean))
    }

    /// Its own in place of those that stand for all: an entry that no rule of this connection has would be refused.
    pub(super) fn origins(&self) -> Origins {
        match self.field("origins") {
            Some(own) => origins_at(own, self.timeouts),
            None => origins(self.settings, self.timeouts),
        }
    }

    fn field(&self, name: &str) -> Option<&Node<'s>> {
        self.entry.as_ref().and_then(|(_, fields)| fields.get(name))
    }

    /// Notes what is wrong, where it was written: in the list, or else in `setting`.
    fn refuse(&self, field: &str, setting: &Setting, problem: &str) {
        match self.field(field) {
            Some(node) => node.problem(problem),
            None => self.settings.refuse(setting, problem),
        }
    }
}

fn agent_name(text: &str) -> Result<AgentName, String> {
    // The name is public: it stands in URLs and logs. A secret put here would be all over the place.
    if text.to_ascii_lowercase().contains("brk_") {
        return Err(
            "a broker secret stands where the agent's name belongs (put the name here, such as sonarqube, and the \
             secret into a file that BROKER_AGENT_SECRET_FILE names)"
                .to_owned(),
        );
    }
    text.parse::<AgentName>().map_err(|error| error.to_string())
}

fn token_at(path: &Path) -> Result<AccessToken, String> {
    fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| format!("cannot be read: {error}"))
        .and_then(|text| {
            AccessToken::parse(TokenKind::Agent, &text).map_err(|error| error.to_string())
        })
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn no_url(text: &str) -> Result<(), &'static str> {
    let text = text.to_ascii_lowercase();
    if text.starts_with("http://") || text.starts_with("https://") {
        Err("rules are not fetched from a URL (mount the file and name its path)")
    } else {
        Ok(())
    }
}

fn is_absent(path: &Path) -> bool {
    matches!(fs::metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

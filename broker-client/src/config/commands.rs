//! Commands that print credentials.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use broker_process::settings::{Node, Settings, positive_duration, shown};

use super::table;

/// How long a command that prints a credential may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what it prints is good.
const COMMAND_CACHE: Duration = Duration::from_secs(300);
/// The secret by which the server knows the agent.
const AGENT_SECRET: &str = "BROKER_AGENT_SECRET";

/// A command that prints a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSettings {
    /// The program; an absolute path.
    pub program: PathBuf,
    /// What it is called with.
    pub arguments: Vec<String>,
    /// What it gets of the agent's environment beside what every command does.
    pub environment: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
    /// How long what it prints is good.
    pub cache: Duration,
}

pub(super) fn commands(settings: &Settings<'_>) -> BTreeMap<String, CommandSettings> {
    let Some(section) = settings.section(&table::COMMANDS) else {
        return BTreeMap::new();
    };
    let entries = section.entries().into_iter();
    entries
        .filter_map(|(name, node)| Some((name, command(&node)?)))
        .collect()
}

fn command(node: &Node<'_>) -> Option<CommandSettings> {
    let fields = node.fields(&["command", "env", "timeout", "cache"]);
    let Some(command) = fields.get("command") else {
        node.problem("no command (write command: [/usr/bin/program, argument])");
        return None;
    };
    let words = command.items();
    let mut words = words.iter().map(Node::text);
    let Some(program) = words.next().flatten().map(PathBuf::from) else {
        command.problem("an empty list (write [/usr/bin/program, argument])");
        return None;
    };
    if !program.is_absolute() {
        command.problem("the program is no absolute path (write [/usr/bin/program, argument])");
    }
    let names = fields.get("env").map(Node::items).unwrap_or_default();
    let environment = names.iter().map(|name| name.read(variable));
    let time = |name, default| match fields.get(name) {
        Some(node) => node.read(positive_duration),
        None => Some(default),
    };
    Some(CommandSettings {
        program,
        arguments: words.collect::<Option<_>>()?,
        environment: environment.collect::<Option<_>>()?,
        timeout: time("timeout", COMMAND_TIMEOUT)?,
        cache: time("cache", COMMAND_CACHE)?,
    })
}

fn variable(text: &str) -> Result<String, String> {
    let is_in = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if text.is_empty() || !text.bytes().all(is_in) {
        return Err(format!(
            "{} is no variable's name (write VAULT_TOKEN, without its value)",
            shown(text)
        ));
    }
    if text == AGENT_SECRET {
        return Err(format!(
            "{AGENT_SECRET} is the broker's, and no business of any command"
        ));
    }
    Ok(text.to_owned())
}

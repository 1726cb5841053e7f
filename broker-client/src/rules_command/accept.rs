//! The accept file that a command is about.

use std::path::{Path, PathBuf};

use accept_rules::{List, RuleFile, RuleSet};
use broker_process::exit::Exit;
use clap::{Arg, ArgMatches, value_parser};

use super::Surroundings;
use crate::accept_file::AcceptFile;
use crate::config::{Reading, Which, named_agent};
use crate::rules::encoded_slash;

/// Names the accept file.
pub(super) fn file_argument() -> Arg {
    Arg::new("file")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("The accept file")
}

/// Chooses one of its lists.
pub(super) fn list_argument() -> Arg {
    Arg::new("list")
        .long("list")
        .value_name("LIST")
        .value_parser(["private", "public"])
        .default_value("private")
        .help("Which of its lists is asked")
}

/// What [`list_argument`] chose.
pub(super) fn list_of(arguments: &ArgMatches) -> List {
    let list = arguments.get_one::<String>("list");
    list.and_then(|list| list.parse().ok())
        .unwrap_or(List::Private)
}

/// An accept file, read as the agent reads it, but for the values of its variables.
pub(super) struct Subject {
    pub(super) file: AcceptFile,
    pub(super) rules: RuleFile,
    pub(super) reading: Reading,
}

impl Subject {
    /// The path that [`file_argument`] names, where that is required.
    pub(super) fn named(arguments: &ArgMatches) -> Result<&Path, Exit> {
        Self::named_if_any(arguments).ok_or_else(|| Exit::usage("name the accept file"))
    }

    /// The path that [`file_argument`] names.
    pub(super) fn named_if_any(arguments: &ArgMatches) -> Option<&Path> {
        arguments.get_one::<PathBuf>("file").map(PathBuf::as_path)
    }

    /// Reads the one that [`file_argument`] must name.
    pub(super) fn of_arguments(
        arguments: &ArgMatches,
        surroundings: Surroundings<'_>,
    ) -> Result<Self, Exit> {
        let which = named_agent(arguments).map_or(Which::Only, Which::Named);
        Self::load(Self::named(arguments)?, arguments, surroundings, which)
    }

    /// Reads the one at `path` as that connection does; whatever is wrong with it is told at once.
    pub(super) fn load(
        path: &Path,
        arguments: &ArgMatches,
        surroundings: Surroundings<'_>,
        which: Which<'_>,
    ) -> Result<Self, Exit> {
        let Surroundings {
            environment,
            folder,
        } = surroundings;
        let reading =
            Reading::gather(arguments, environment, folder, which).map_err(Exit::usage)?;
        let file = AcceptFile::read(path).map_err(Exit::usage)?;
        let rules = file
            .parse(reading.rules.unknown_keys)
            .map_err(Exit::usage)?;
        Ok(Self {
            file,
            rules,
            reading,
        })
    }

    /// One of its lists, ready to be asked.
    pub(super) fn list(&self, list: List) -> RuleSet {
        self.compile(&self.rules, list)
    }

    /// A list of other rules, with what the settings say of origins.
    pub(super) fn compile(&self, rules: &RuleFile, list: List) -> RuleSet {
        RuleSet::compile(rules, list, |origin| {
            encoded_slash(&self.reading.origins, origin)
        })
    }
}

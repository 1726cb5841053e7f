//! `rules convert`: an accept file without a version as one of version 2.

use accept_rules::to_version_2;
use broker_process::exit::{self, Exit};
use clap::{ArgMatches, Command};

use super::accept::{Subject, file_argument};
use crate::accept_file::AcceptFile;

pub(super) fn command() -> Command {
    Command::new("convert")
        .about("Print an accept file without a version as one of version 2 that decides alike")
        .long_about(
            "Print an accept file without a version as one of version 2 that decides every request alike, in JSON. What \
             could be narrower is said in each rule, under \"//\". The file itself is not changed.",
        )
        .after_help(
            "Exit code: 0 when the file is printed; 64 where it cannot be read, or is of version 2 already.\n\nExample:\n  \
             broker-client rules convert accept.json > accept-2.json",
        )
        .arg(file_argument().required(true))
}

pub(super) fn run(arguments: &ArgMatches) -> Result<(), Exit> {
    let path = Subject::named(arguments)?;
    let file = AcceptFile::read(path).map_err(Exit::usage)?;
    let converted = file.read_as(to_version_2).map_err(Exit::usage)?;
    exit::print(&(converted + "\n"))
}

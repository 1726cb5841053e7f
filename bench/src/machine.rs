//! The machine and the programs on which figures were taken.

use std::fs;
use std::process::Command;

/// One line for each, as Markdown list items.
pub(crate) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let lines = [
        format!("{cores} cores, {}", processor()),
        format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        version("rustc", &["--version"]),
        version("nginx", &["-v"]),
        version("wrk", &["-v"]),
        version("curl", &["--version"]),
        format!(
            "commit {}, {}",
            commit(),
            first_line("date", &["-u", "+%F"])
        ),
    ];
    lines.iter().map(|line| format!("- {line}\n")).collect()
}

fn processor() -> String {
    let about = read("/proc/cpuinfo");
    let model = about.lines().find(|line| line.starts_with("model name"));
    model
        .and_then(|line| line.split_once(": "))
        .map_or("unknown", |(_, name)| name)
        .to_owned()
}

/// The commit, marked where the work tree differs from it.
fn commit() -> String {
    let commit = first_line("git", &["rev-parse", "--short", "HEAD"]);
    let changed = first_line("git", &["status", "--porcelain", "--untracked-files=no"]);
    if changed.is_empty() {
        commit
    } else {
        format!("{commit} with changes")
    }
}

/// What a program calls itself, without the details that some add in brackets.
fn version(program: &str, arguments: &[&str]) -> String {
    let line = first_line(program, arguments);
    line.split(['(', '['])
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The first line that a program prints on either output; some print their version on the second.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", path_with_sbin());
    let Ok(output) = command.output() else {
        return format!("{program} is not there");
    };
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said)
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Debian has nginx where only root's PATH leads.
fn path_with_sbin() -> String {
    format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

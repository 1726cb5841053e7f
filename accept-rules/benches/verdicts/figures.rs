//! The figures as Markdown, in README.md beside the benchmarks.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The lines of the README between which the figures stand.
const START: &str = "<!-- figures: written by `WRITE_FIGURES=1 cargo bench -p accept-rules` -->\n";
const END: &str = "<!-- end of figures -->";

/// What is promised of a median, in nanoseconds.
const PROMISES: &[(&str, f64)] = &[
    ("kubernetes-21/allowed", 1e3),
    ("github-320/allowed", 3e3),
    ("github-320/allowed-late", 3e3),
    ("github-320/allowed-by-header", 3e3),
    ("like-kubernetes-21/allowed", 1e3),
    ("like-github-320/allowed", 3e3),
    ("thousand/allowed", 1e4),
    ("thousand/allowed-by-query", 1e4),
    ("load/thousand", 5e7),
    ("load/thousand-any-segments", 5e7),
];

/// Where the measurements are kept.
pub(crate) fn folder() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let target = program
        .ancestors()
        .nth(3)
        .expect("programs lie deep in the target folder");
    target.join("criterion")
}

/// Puts the medians of `names` into the README.
pub(crate) fn write(names: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/README.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text
        .split_once(START)
        .expect("the README has the first mark");
    let (_, after) = rest.split_once(END).expect("the README has the last mark");
    fs::write(
        path,
        format!("{before}{START}{}{END}{after}", report(names)),
    )
    .unwrap();
}

fn report(names: &[String]) -> String {
    let mut report = format!("\n{}\n| | median | promised |\n|---|---|---|\n", machine());
    for name in names {
        let promise = PROMISES.iter().find(|(promised, _)| name == promised);
        let promise = promise.map_or_else(String::new, |(_, most)| format!("≤ {}", time(*most)));
        writeln!(report, "| {name} | {} | {promise} |", time(median(name))).unwrap();
    }
    report.push('\n');
    report
}

fn median(name: &str) -> f64 {
    let file = folder()
        .join(name.replace('/', "_"))
        .join("new/estimates.json");
    let estimates: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    estimates
        .pointer("/median/point_estimate")
        .and_then(Value::as_f64)
        .unwrap()
}

fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.1} µs", n / 1e3),
        n => format!("{:.1} ms", n / 1e6),
    }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let about = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = about.lines().find(|line| line.starts_with("model name"));
    let model = model
        .and_then(|line| line.split_once(": "))
        .map_or("unknown", |(_, name)| name);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    [
        format!("{cores} cores, {model}, Linux {}", kernel.trim()),
        said("rustc", &["--version"]),
        format!(
            "commit {}, {}",
            said("git", &["rev-parse", "--short", "HEAD"]),
            said("date", &["-u", "+%F"])
        ),
    ]
    .map(|line| format!("- {line}\n"))
    .concat()
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

//! The figures as Markdown.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::contender::Contender;
use crate::load::{Latency, Measured};
use crate::{MIB, Options, machine};

/// The lines of the README between which the report stands.
const START: &str = "<!-- figures: written by `cargo run --release -p broker-bench -- --write` -->";
const END: &str = "<!-- end of figures -->";

/// Everything that was measured.
pub(crate) struct Report<'a> {
    /// One a kind of load.
    pub(crate) rows: &'a [Row],
    /// In the order of each row's columns.
    pub(crate) contenders: &'a [Contender],
    /// How it was measured.
    pub(crate) options: &'a Options,
}

/// One kind of load: for each contender, a figure a round.
pub(crate) struct Row {
    name: String,
    columns: Vec<Vec<Measured>>,
}

impl Row {
    /// Without figures yet.
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            columns: Vec::new(),
        }
    }

    /// Adds this round's figure of a contender.
    pub(crate) fn add(&mut self, contender: usize, measured: Measured) {
        if self.columns.len() <= contender {
            self.columns.resize(contender + 1, Vec::new());
        }
        if let Some(column) = self.columns.get_mut(contender) {
            column.push(measured);
        }
    }

    /// The last contender's rate over the one's before it, round by round.
    fn ratios(&self) -> Vec<f64> {
        let [.., before, last] = self.columns.as_slice() else {
            return Vec::new();
        };
        last.iter()
            .zip(before)
            .map(|(last, before)| last.rate / before.rate)
            .collect()
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options {
            rounds,
            seconds,
            size,
            ..
        } = self.options;
        writeln!(f, "{}", machine::describe())?;
        writeln!(
            f,
            "{rounds} interleaved rounds; requests for {seconds} s a figure; {} MiB a body; medians.\n",
            size / MIB
        )?;
        self.rates(f)?;
        writeln!(f)?;
        self.usage(f)
    }
}

impl Report<'_> {
    fn rates(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self
            .contenders
            .iter()
            .map(|contender| contender.name)
            .collect();
        let ratio = match names.as_slice() {
            [.., before, last] => format!("{last} / {before} (each round)"),
            _ => String::new(),
        };
        writeln!(f, "| | {} | {ratio} |", names.join(" | "))?;
        writeln!(f, "|---|{}---|", "---|".repeat(names.len()))?;
        for row in self.rows {
            let cells: Vec<String> = row
                .columns
                .iter()
                .map(|column| middle(column).to_string())
                .collect();
            let each: Vec<String> = row
                .ratios()
                .iter()
                .map(|ratio| format!("{ratio:.2}"))
                .collect();
            let ratio = format!("**{:.2}** ({})", median(row.ratios()), each.join(", "));
            writeln!(f, "| {} | {} | {ratio} |", row.name, cells.join(" | "))?;
        }
        Ok(())
    }

    fn usage(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| process | RSS idle, MiB | RSS peak, MiB | CPU in all rounds, s |"
        )?;
        writeln!(f, "|---|---|---|---|")?;
        for process in self
            .contenders
            .iter()
            .flat_map(|contender| &contender.processes)
        {
            let Some(usage) = process.usage() else {
                continue;
            };
            let (idle, peak) = (mib(usage.idle), mib(usage.peak));
            let cpu = usage.cpu.as_secs_f64();
            writeln!(f, "| {} | {idle:.1} | {peak:.1} | {cpu:.1} |", process.name)?;
        }
        Ok(())
    }
}

/// Puts the report into the README, between its two lines.
pub(crate) fn write(report: &str, readme: &Path) -> Result<()> {
    let name = readme.display();
    let old = fs::read_to_string(readme).with_context(|| format!("cannot read {name}"))?;
    let new = replace(&old, report).with_context(|| {
        format!("{name} has no place for figures: a line {START:?}, then {END:?}")
    })?;
    fs::write(readme, new).with_context(|| format!("cannot write {name}"))
}

fn replace(readme: &str, report: &str) -> Option<String> {
    let (before, rest) = readme.split_once(START)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!(
        "{before}{START}\n\n{}\n\n{END}{after}",
        report.trim()
    ))
}

/// The medians of a contender's figures.
fn middle(column: &[Measured]) -> Measured {
    let latencies: Vec<Latency> = column
        .iter()
        .filter_map(|measured| measured.latency)
        .collect();
    let latency = (!latencies.is_empty()).then(|| Latency {
        p50: median(latencies.iter().map(|latency| latency.p50).collect()),
        p99: median(latencies.iter().map(|latency| latency.p99).collect()),
    });
    Measured {
        rate: median(column.iter().map(|measured| measured.rate).collect()),
        latency,
    }
}

/// The middle one; of an even number the lower of the two in the middle, a figure that was taken.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures
        .get(figures.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(f64::NAN)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let mut row = Row::new("one download".to_owned());
        for (before, last) in [(100.0, 50.0), (200.0, 400.0), (100.0, 90.0)] {
            row.add(
                0,
                Measured {
                    rate: before,
                    latency: None,
                },
            );
            row.add(
                1,
                Measured {
                    rate: last,
                    latency: None,
                },
            );
        }
        row
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        assert_eq!(row().ratios(), [0.5, 2.0, 0.9]);
        assert!((median(row().ratios()) - 0.9).abs() < 1e-9);
    }

    #[test]
    fn a_cell_shows_the_median() {
        assert_eq!(middle(&row().columns[1]).to_string(), "90 MiB/s");
    }

    #[test]
    fn the_readme_keeps_what_stands_around_the_figures() {
        let readme = format!("# Load\n{START}\nold\n{END}\nend\n");
        let expected = format!("# Load\n{START}\n\nnew\n\n{END}\nend\n");
        assert_eq!(replace(&readme, "new\n").unwrap(), expected);
        assert_eq!(replace("# Load\n", "new"), None);
    }
}

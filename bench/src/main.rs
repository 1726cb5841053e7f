//! `cargo run --release -p broker-bench`: the same load on plain nginx, on two nginx that proxy over
//! TLS, and on our agent and server, in turns within one run.
//!
//! Only figures of one run compare: on a shared machine the same program's figures move by half
//! between minutes. So each round measures all contenders right after each other, and what is
//! reported beside the medians is the ratio within each round.
#![expect(
    clippy::print_stdout,
    reason = "the report is what this program is for"
)]

mod contender;
mod load;
mod machine;
mod ours;
mod report;

use std::path::Path;

use anyhow::{Context, Result};
use broker_tests::programs::Nginx;
use clap::{Arg, ArgAction, Command, value_parser};

use contender::Contender;
use load::Load;
use report::{Report, Row};

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

fn main() -> Result<()> {
    let options = Options::from_arguments();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(run(&options))?;
    println!("{report}");
    if options.write {
        let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        report::write(&report, &readme)?;
    }
    Ok(())
}

struct Options {
    rounds: usize,
    seconds: u64,
    size: u64,
    without_ours: bool,
    write: bool,
}

impl Options {
    fn from_arguments() -> Self {
        let number = |name: &'static str, default: &'static str, help: &'static str| {
            Arg::new(name)
                .long(name)
                .value_name("N")
                .default_value(default)
                .value_parser(value_parser!(u64).range(1..))
                .help(help)
        };
        let flag = |name: &'static str, help: &'static str| {
            Arg::new(name)
                .long(name)
                .action(ArgAction::SetTrue)
                .help(help)
        };
        let found = Command::new("broker-bench")
            .about("The same load on nginx, two nginx over TLS, and our agent and server")
            .arg(number("rounds", "3", "How often everything is measured"))
            .arg(number(
                "seconds",
                "5",
                "How long requests are sent for each figure",
            ))
            .arg(number(
                "size",
                "1024",
                "MiB of the one download and the one upload",
            ))
            .arg(flag("without-ours", "Measure the peers alone"))
            .arg(flag("write", "Put the report into bench/README.md"))
            .get_matches();
        let given = |name: &str| *found.get_one::<u64>(name).expect("it has a default");
        Self {
            rounds: usize::try_from(given("rounds")).unwrap_or(usize::MAX),
            seconds: given("seconds"),
            size: given("size") * MIB,
            without_ours: found.get_flag("without-ours"),
            write: found.get_flag("write"),
        }
    }
}

async fn run(options: &Options) -> Result<String> {
    let origin = Nginx::load_origin().await;
    println!("origin: making a file of {} MiB", options.size / MIB);
    origin.file(options.size);

    let mut contenders = vec![Contender::direct(&origin), Contender::pair(&origin).await];
    if !options.without_ours {
        contenders.push(
            ours::start(&origin)
                .await
                .context("cannot start our programs")?,
        );
    }
    for contender in &mut contenders {
        contender
            .check()
            .await
            .with_context(|| format!("{} does not work", contender.name))?;
        contender.note_idle();
    }

    let loads = Load::all(
        options.seconds,
        options.size,
        origin.file_path(options.size),
    );
    let mut rows: Vec<Row> = loads.iter().map(|load| Row::new(load.name())).collect();
    for round in 1..=options.rounds {
        for (load, row) in loads.iter().zip(&mut rows) {
            for (index, contender) in contenders.iter().enumerate() {
                let measured = load.run(contender).with_context(|| {
                    format!("round {round}, {}, {}", load.name(), contender.name)
                })?;
                println!(
                    "round {round}, {}, {}: {measured}",
                    load.name(),
                    contender.name
                );
                row.add(index, measured);
            }
        }
    }
    Ok(Report {
        rows: &rows,
        contenders: &contenders,
        options,
    }
    .to_string())
}

//! How many threads carry a program's work.

use std::io;
use std::num::NonZero;

use tokio::runtime::{Builder, Runtime};

use crate::settings::{Setting, Settings, integer};

/// Most threads that can be asked for; more than any machine has cores to spare.
const MOST: usize = 256;

/// The setting, for a program's table.
pub const THREADS: Setting = Setting::new(
    "threads",
    "N",
    "How many threads carry the work; unset, half of the cores, since the kernel's part of it needs the others",
)
.env(&["BROKER_THREADS"]);

/// What the operator set, or half of the cores and at least one.
///
/// On two cores one thread serves more requests than two do, and each sooner: nothing is handed from one to the
/// other. Measured by the benchmark.
#[must_use]
pub fn read(settings: &Settings<'_>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    settings
        .optional(&THREADS, integer(1..=MOST))
        .unwrap_or((cores / 2).max(1))
}

/// The runtime that does the work.
///
/// # Errors
/// If the system has no threads to give.
pub fn runtime(threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
}

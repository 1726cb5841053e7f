//! Memory and processor time of a process, as the kernel counts them.

use std::fs;
use std::time::Duration;

/// Resident memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

impl Memory {
    /// Of the process `pid`.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn of(pid: u32) -> Self {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        Self {
            resident: kibibytes(&status, "VmRSS:"),
            peak: kibibytes(&status, "VmHWM:"),
        }
    }

    /// Of `pid` and all its descendants together. The sum counts shared pages once a process.
    pub fn of_tree(pid: u32) -> Self {
        tree(pid).into_iter().map(Self::of).fold(
            Self {
                resident: 0,
                peak: 0,
            },
            |sum, one| Self {
                resident: sum.resident + one.resident,
                peak: sum.peak + one.peak,
            },
        )
    }
}

/// Processor time, user and system, that `pid` and its descendants have used.
///
/// # Panics
/// When there is no such process.
pub fn cpu_time_of_tree(pid: u32) -> Duration {
    tree(pid).into_iter().map(cpu_time).sum()
}

fn kibibytes(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    number.unwrap_or_else(|| panic!("no {field} in /proc/<pid>/status")) * 1024
}

fn cpu_time(pid: u32) -> Duration {
    let stat = Stat::of(pid).unwrap_or_else(|| panic!("/proc/{pid}/stat: no such process"));
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    Duration::from_millis((stat.user_ticks + stat.system_ticks) * 1000 / ticks_per_second)
}

fn tree(root: u32) -> Vec<u32> {
    let everyone: Vec<(u32, u32)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, Stat::of(pid)?.parent)))
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(
            everyone
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    tree
}

/// The fields of `/proc/<pid>/stat` that are used here (proc(5)).
struct Stat {
    parent: u32,
    user_ticks: u64,
    system_ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may hold spaces; fields are
        // counted from the third, the state, on.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            user_ticks: fields.get(11)?.parse().ok()?,
            system_ticks: fields.get(12)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_is_counted() {
        let before = Memory::of(std::process::id());
        let touched = vec![1_u8; 64 << 20];
        let after = Memory::of(std::process::id());
        assert!(
            after.resident >= before.resident + (60 << 20),
            "{before:?} {after:?}"
        );
        drop(touched);
        // The kernel counts in batches a processor, so that the peak may lag a little behind.
        assert!(Memory::of(std::process::id()).peak >= before.resident + (60 << 20));
    }

    #[test]
    fn work_that_is_done_is_counted() {
        let before = cpu_time_of_tree(std::process::id());
        let mut rounds = 0_u64;
        while cpu_time_of_tree(std::process::id()) < before + Duration::from_millis(50) {
            rounds += 1;
            assert!(rounds < 10_000_000, "the processor time does not grow");
        }
    }

    #[test]
    fn a_child_belongs_to_the_tree() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        assert!(tree(std::process::id()).contains(&child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

//! The load: wrk for small requests, curl for one long body.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::MIB;
use crate::contender::Contender;

/// Printed by wrk itself when it is done, in units that need no guessing.
const REPORT: &str = r#"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("figures %d %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.status, e.connect + e.read + e.write + e.timeout))
end
"#;

/// One kind of load.
pub(crate) enum Load {
    /// Requests for 200 bytes of JSON over so many connections, for so many seconds.
    Requests { connections: u16, seconds: u64 },
    /// One download of so many bytes.
    Download { size: u64 },
    /// One upload of this file.
    Upload { file: PathBuf },
}

/// What one load measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// The figure by which contenders compare, more is better: requests a second, or MiB a second
    /// for one body.
    pub(crate) rate: f64,
    /// Of requests; one body has none.
    pub(crate) latency: Option<Latency>,
}

/// Percentiles, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Latency {
    /// Half were faster.
    pub(crate) p50: f64,
    /// All but one of a hundred were faster.
    pub(crate) p99: f64,
}

impl Load {
    /// All of them; `file` is uploaded and has `size` bytes.
    pub(crate) fn all(seconds: u64, size: u64, file: PathBuf) -> Vec<Self> {
        let requests = |connections| Self::Requests {
            connections,
            seconds,
        };
        vec![
            requests(1),
            requests(32),
            requests(128),
            Self::Download { size },
            Self::Upload { file },
        ]
    }

    /// What the report calls it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Requests { connections: 1, .. } => "1 connection".to_owned(),
            Self::Requests { connections, .. } => format!("{connections} connections"),
            Self::Download { .. } => "one download".to_owned(),
            Self::Upload { .. } => "one upload".to_owned(),
        }
    }

    /// Puts it on a contender.
    pub(crate) fn run(&self, contender: &Contender) -> Result<Measured> {
        match self {
            Self::Requests {
                connections,
                seconds,
            } => wrk(contender, *connections, *seconds),
            Self::Download { size } => {
                curl(contender, &format!("/files/{size}"), "size_download", None)
            }
            Self::Upload { file } => curl(contender, "/upload", "size_upload", Some(file)),
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.latency {
            Some(Latency { p50, p99 }) => {
                write!(
                    f,
                    "{:.0} req/s, p50 {p50:.2} ms, p99 {p99:.2} ms",
                    self.rate
                )
            }
            None => write!(f, "{:.0} MiB/s", self.rate),
        }
    }
}

/// One thread of wrk: the machine's other cores belong to the contender.
fn wrk(contender: &Contender, connections: u16, seconds: u64) -> Result<Measured> {
    let script = tempfile::Builder::new().suffix(".lua").tempfile()?;
    std::fs::write(script.path(), REPORT)?;
    let mut command = Command::new("wrk");
    command.args([
        "-t1",
        &format!("-c{connections}"),
        &format!("-d{seconds}s"),
        "-s",
    ]);
    command.arg(script.path());
    if let Some((name, value)) = &contender.header {
        command.args(["-H", &format!("{name}: {value}")]);
    }
    command.arg(format!("{}/small.json", contender.base));
    let said = output(&mut command)?;
    let figures = said.lines().find_map(|line| line.strip_prefix("figures "));
    let figures = figures.with_context(|| format!("wrk said no figures: {said}"))?;
    parse_wrk(figures)
}

fn parse_wrk(figures: &str) -> Result<Measured> {
    let numbers: Vec<f64> = figures
        .split(' ')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context(figures.to_owned())?;
    let &[requests, microseconds, p50, p99, refused, broken] = numbers.as_slice() else {
        bail!("not six figures of wrk: {figures}");
    };
    ensure!(refused == 0.0, "{refused} answers were not 200");
    ensure!(broken == 0.0, "{broken} connections broke or timed out");
    let latency = Latency {
        p50: p50 / 1e3,
        p99: p99 / 1e3,
    };
    Ok(Measured {
        rate: requests / (microseconds / 1e6),
        latency: Some(latency),
    })
}

/// Without `Expect: 100-continue`, which curl would send with a large upload: whoever does not
/// answer it at once would be measured a second slower.
fn curl(
    contender: &Contender,
    path: &str,
    counted: &str,
    upload: Option<&Path>,
) -> Result<Measured> {
    let mut command = Command::new("curl");
    command.args(["-sS", "-o", "/dev/null", "-H", "Expect:"]);
    command.args([
        "-w",
        &format!("%{{http_code}} %{{{counted}}} %{{time_total}}"),
    ]);
    if let Some((name, value)) = &contender.header {
        command.args(["-H", &format!("{name}: {value}")]);
    }
    if let Some(file) = upload {
        command.arg("-T").arg(file);
    }
    command.arg(format!("{}{path}", contender.base));
    parse_curl(&output(&mut command)?)
}

fn parse_curl(said: &str) -> Result<Measured> {
    let numbers: Vec<f64> = said
        .split(' ')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context(said.to_owned())?;
    let &[status, bytes, seconds] = numbers.as_slice() else {
        bail!("not three figures of curl: {said}");
    };
    ensure!(status == 200.0, "the answer was {status}");
    Ok(Measured {
        rate: bytes / MIB as f64 / seconds,
        latency: None,
    })
}

fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| {
        format!("cannot start {program} (./check installs it with what the tests need)")
    })?;
    if !output.status.success() {
        bail!(
            "{program}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_wrk_are_read() {
        let latency = Latency {
            p50: 0.25,
            p99: 4.0,
        };
        let expected = Measured {
            rate: 500.0,
            latency: Some(latency),
        };
        assert_eq!(parse_wrk("1000 2000000 250 4000 0 0").unwrap(), expected);
    }

    #[test]
    fn a_refused_request_makes_figures_worthless() {
        let error = parse_wrk("1000 2000000 250 4000 3 0").unwrap_err();
        assert_eq!(error.to_string(), "3 answers were not 200");
        parse_wrk("1000 2000000 250 4000 0 1").unwrap_err();
        parse_curl("403 1048576 1").unwrap_err();
    }

    #[test]
    fn figures_of_curl_are_read() {
        let expected = Measured {
            rate: 2.0,
            latency: None,
        };
        assert_eq!(parse_curl("200 4194304 2.0").unwrap(), expected);
    }
}

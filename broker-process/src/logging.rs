//! Operational logs: what the process does, for whoever runs it. They are not the audit log.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

use crate::settings::{Setting, Settings, integer, shown};

/// Our own crates, to which the level applies. Dependencies never log below a warning: at `trace` the WebSocket library
/// would write whole handshakes, the agent's secret included.
const OUR_CRATES: [&str; 5] = [
    "accept_rules",
    "broker_client",
    "broker_process",
    "broker_protocol",
    "broker_server",
];

const LEVEL: Setting = Setting::new(
    "log.level",
    "LEVEL",
    "How much is logged: trace, debug, info, warn, error or fatal (the same as error)",
)
.env(&["LOG_LEVEL"])
.default("info");
const FORMAT: Setting = Setting::new(
    "log.format",
    "FORMAT",
    "How log lines are written: text, or json for one object a line",
)
.env(&["LOG_FORMAT"])
.default("text");
const FILE: Setting = Setting::new(
    "log.file",
    "FILE",
    "Also log to this file, a new one each day with the date at its end",
)
.env(&["LOG_FILE"]);
const KEEP: Setting = Setting::new("log.keep", "DAYS", "How many daily log files are kept")
    .env(&["LOG_FILE_KEEP"])
    .default("7");

/// The settings of the log, for a program's table.
pub const SETTINGS: &[Setting] = &[LEVEL, FORMAT, FILE, KEEP];

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// How much of what our crates say is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Every step.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What an operator wants to know.
    Info,
    /// What may need attention.
    Warn,
    /// What failed.
    Error,
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "trace" => Ok(Self::Trace),
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" => Ok(Self::Warn),
            "error" | "fatal" => Ok(Self::Error),
            _ => Err(format!(
                "unknown value {} (use trace, debug, info, warn, error or fatal)",
                shown(text)
            )),
        }
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Trace => Self::TRACE,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Info => Self::INFO,
            LogLevel::Warn => Self::WARN,
            LogLevel::Error => Self::ERROR,
        }
    }
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("unknown value {} (use text or json)", shown(text))),
        }
    }
}

/// Where and how to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// How much.
    pub level: LogLevel,
    /// How a line is written.
    pub format: LogFormat,
    /// A file beside stderr.
    pub file: Option<PathBuf>,
    /// How many days of that file are kept.
    pub keep: usize,
}

impl LogSettings {
    /// Reads them; what is wrong is noted in `settings`.
    #[must_use]
    pub fn read(settings: &Settings<'_>) -> Self {
        Self {
            level: settings.value(&LEVEL, str::parse),
            format: settings.value(&FORMAT, str::parse),
            file: settings.path(&FILE),
            keep: settings.value(&KEEP, integer(1..=3650)),
        }
    }
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The log file's folder is missing or not writable, or the path names no file.
    #[error("log.file: {}: {reason}", .file.display())]
    File {
        /// The file that was asked for.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Something else in this process logs already.
    #[error("logging was started before")]
    Twice,
}

/// Keeps the log file's writer alive; what it still holds is written when this is dropped.
#[derive(Debug)]
pub struct LogGuard {
    _file: Option<WorkerGuard>,
}

/// Starts logging, to stderr and where asked for also to a file.
///
/// # Errors
/// If the log file cannot be opened, or logging was started before.
pub fn start(settings: &LogSettings) -> Result<LogGuard, LogError> {
    let with_colours = io::stderr().is_terminal();
    let stderr = lines(settings.format, with_colours, io::stderr);
    let (file, guard) = match file_appender(settings)? {
        Some(appender) => {
            // Full of lines that the disk does not take, the queue drops new ones: logging must not stop requests.
            let (writer, guard) = tracing_appender::non_blocking(appender);
            (Some(lines(settings.format, false, writer)), Some(guard))
        }
        None => (None, None),
    };
    Registry::default()
        .with(stderr.and_then(file).with_filter(filter(settings.level)))
        .try_init()
        .map_err(|_| LogError::Twice)?;
    Ok(LogGuard { _file: guard })
}

fn filter(level: LogLevel) -> Targets {
    let level = LevelFilter::from(level);
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(OUR_CRATES.map(|name| (name, level)))
}

fn lines<S, W>(format: LogFormat, with_colours: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(with_colours)
        .with_writer(writer);
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

fn file_appender(settings: &LogSettings) -> Result<Option<RollingFileAppender>, LogError> {
    let Some(file) = &settings.file else {
        return Ok(None);
    };
    let refused = |reason: String| LogError::File {
        file: file.clone(),
        reason,
    };
    let name = file
        .file_name()
        .ok_or_else(|| refused("names no file (give a folder and a file name)".to_owned()))?;
    let folder = file.parent().unwrap_or(file);
    // The appender would make it too, but first complain on stderr that it cannot look for old files in it.
    fs::create_dir_all(folder).map_err(|error| refused(format!("cannot be written: {error}")))?;
    RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix(name.to_string_lossy())
        .max_log_files(settings.keep)
        .build(folder)
        .map(Some)
        .map_err(|error| refused(format!("cannot be written: {}", root_cause(&error))))
}

fn root_cause<'e>(mut error: &'e (dyn std::error::Error + 'static)) -> &'e dyn std::error::Error {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat, events: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let layer = lines(format, false, move || writer.clone());
        let subscriber =
            Registry::default().with(layer.with_filter(filter(level.parse().unwrap())));
        tracing::subscriber::with_default(subscriber, events);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn dependencies_never_log_below_a_warning() {
        let text = logged("trace", LogFormat::Text, || {
            tracing::trace!(target: "broker_client::dial", "ours");
            tracing::info!(target: "tungstenite::handshake", "Authorization: Bearer x");
            tracing::warn!(target: "hyper", "theirs");
        });
        assert!(text.contains("ours") && text.contains("theirs"), "{text}");
        assert!(!text.contains("Authorization"), "{text}");
    }

    #[test]
    fn fatal_means_error() {
        let text = logged("fatal", LogFormat::Text, || {
            tracing::error!(target: "broker_server", "kept");
            tracing::warn!(target: "broker_server", "left out");
            tracing::warn!(target: "hyper", "left out");
        });
        assert!(
            text.contains("kept") && !text.contains("left out"),
            "{text}"
        );
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged("info", LogFormat::Json, || {
            tracing::info!(target: "broker_server", tunnels = 2, "ready");
        });
        let line = text.strip_suffix('\n').unwrap();
        assert!(
            line.starts_with('{') && line.ends_with('}') && !line.contains('\n'),
            "{line}"
        );
        assert!(
            line.contains(r#""message":"ready""#) && line.contains(r#""tunnels":2"#),
            "{line}"
        );
    }

    #[test]
    fn an_unknown_level_names_the_known_ones() {
        assert_eq!(
            "loud".parse::<LogLevel>().unwrap_err(),
            r#"unknown value "loud" (use trace, debug, info, warn, error or fatal)"#
        );
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_named() {
        let settings = LogSettings {
            level: LogLevel::Info,
            format: LogFormat::Text,
            file: Some("/proc/nowhere/broker.log".into()),
            keep: 7,
        };
        let error = file_appender(&settings).unwrap_err().to_string();
        assert!(
            error.starts_with("log.file: /proc/nowhere/broker.log: cannot be written: "),
            "{error}"
        );
    }
}

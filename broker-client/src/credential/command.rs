//! A credential that a command prints: a login helper, a client of a secrets manager.
//!
//! The command is the settings', never the accept file's. It runs without a shell, within a time limit, and without the
//! agent's environment, which holds the credentials of every rule.

use std::process::Stdio;

use futures_util::future::BoxFuture;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Secret;
use super::file::{MAX_LEN, value};
use super::renewed::{Failure, Fetch, Fetched, Occasion};
use crate::config::CommandSettings;

/// What a command gets of the agent's environment: what programs need to run and to find their service, as `name` or
/// `prefix*`.
const PASSED: [&str; 24] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_*",
    "TZ",
    "TMPDIR",
    "SSL_CERT_*",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    "AWS_*",
    "GOOGLE_*",
    "CLOUDSDK_*",
    "KUBECONFIG",
    "KUBERNETES_SERVICE_*",
    "VAULT_ADDR",
    "VAULT_NAMESPACE",
    "VAULT_CACERT",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
];

/// One command.
#[derive(Debug)]
pub(super) struct CommandSource(pub(super) CommandSettings);

impl Fetch<Secret> for CommandSource {
    fn fetch(&self, _: Occasion) -> BoxFuture<'_, Result<Fetched<Secret>, Failure>> {
        Box::pin(async {
            Ok(Fetched {
                value: output(&self.0).await?,
                lives: self.0.cache,
            })
        })
    }

    /// What a command does is not known: it runs for requests alone.
    fn is_kept(&self) -> bool {
        false
    }
}

/// What the command prints. What it says on its standard error is dropped: it could show the secret.
async fn output(settings: &CommandSettings) -> Result<Secret, String> {
    let mut command = Command::new(&settings.program);
    command
        .args(&settings.arguments)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| {
            name.to_str()
                .is_some_and(|name| is_passed(name, &settings.environment))
        }))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let failed = |error: std::io::Error| format!("cannot be run: {error}");
    let mut child = command.spawn().map_err(failed)?;
    let running = async {
        // Room for all, and one byte more, as for a file.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LEN + 64));
        if let Some(stdout) = child.stdout.take() {
            let mut stdout = stdout.take(MAX_LEN as u64 + 1);
            stdout.read_to_end(&mut bytes).await.map_err(failed)?;
        }
        let status = child.wait().await.map_err(failed)?;
        if !status.success() && bytes.len() <= MAX_LEN {
            return Err(format!("failed with {status}"));
        }
        value(&bytes).map_err(|error| format!("printed no credential: what it printed {error}"))
    };
    let limit = settings.timeout;
    timeout(limit, running)
        .await
        .unwrap_or_else(|_| Err(format!("did not end within {limit:?}")))
}

fn is_passed(name: &str, more: &[String]) -> bool {
    let is_usual = PASSED.iter().any(|entry| match entry.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *entry,
    });
    is_usual || more.iter().any(|entry| entry == name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings(script: &str, timeout: Duration) -> CommandSettings {
        CommandSettings {
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: Vec::new(),
            timeout,
            cache: LONG,
        }
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn one_line_is_the_credential_and_the_rest_is_said_without_being_shown() {
        let printed = output(&settings("echo hunter2", LONG)).await.unwrap();
        assert_eq!(printed.expose(), "hunter2");
        for (script, why) in [
            ("echo hunter2; exit 3", "failed with exit status: 3"),
            ("", "printed no credential: what it printed is empty"),
            (
                "echo a; echo b",
                "printed no credential: what it printed holds a line break or another control character",
            ),
            (
                "yes | head -c 100000",
                "printed no credential: what it printed has more than 16384 bytes",
            ),
            (
                "yes",
                "printed no credential: what it printed has more than 16384 bytes",
            ),
        ] {
            assert_eq!(output(&settings(script, LONG)).await.unwrap_err(), why);
        }
        let missing = CommandSettings {
            program: "/nowhere".into(),
            ..settings("", LONG)
        };
        let error = output(&missing).await.unwrap_err();
        assert!(error.starts_with("cannot be run: "), "{error}");
    }

    #[tokio::test]
    async fn a_command_gets_no_variable_that_it_neither_needs_nor_is_given_by_name() {
        for name in [
            "PATH",
            "LC_ALL",
            "SSL_CERT_FILE",
            "AWS_REGION",
            "https_proxy",
        ] {
            assert!(is_passed(name, &[]), "{name}");
        }
        for name in [
            "GITHUB_TOKEN",
            "BROKER_AGENT_SECRET",
            "VAULT_TOKEN",
            "PATHS",
            "HTTP",
        ] {
            assert!(!is_passed(name, &[]), "{name}");
        }
        // Whatever runs the tests sets this one.
        let name = "CARGO_MANIFEST_DIR";
        let mut settings = settings(&format!("echo ${{{name}-none}}"), LONG);
        assert_eq!(output(&settings).await.unwrap().expose(), "none");
        settings.environment = vec![name.to_owned()];
        let given = output(&settings).await.unwrap();
        assert_eq!(given.expose(), std::env::var(name).unwrap());
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_ended() {
        let settings = settings("echo a; exec sleep 3600", Duration::from_millis(50));
        let error = output(&settings).await.unwrap_err();
        assert_eq!(error, "did not end within 50ms");
    }
}

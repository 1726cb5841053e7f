//! curl as a caller.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::certs::{Ca, Leaf};
use crate::programs::Child;

/// One request by curl.
pub struct Curl {
    command: Command,
    output: PathBuf,
}

/// What curl says of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurlAnswer {
    /// curl's own exit code; 0 where it has the whole answer.
    pub exit_code: Option<i32>,
    /// The answer's status; 0 where there was none.
    pub status: u16,
    /// The version that was spoken: `1.1` or `2`.
    pub version: String,
    /// What it wrote to standard error.
    pub complaint: String,
}

impl Curl {
    /// A GET of this URL whose answer's body is thrown away.
    pub fn get(url: &str) -> Self {
        let mut command = Command::new("curl");
        // Proxies that the environment names are not for loopback.
        command.env("no_proxy", "*").args([
            "--silent",
            "--show-error",
            "--write-out",
            "%{http_code} %{http_version}\n",
            url,
        ]);
        let output = PathBuf::from("/dev/null");
        Self { command, output }
    }

    /// With this header.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.arguments(["--header", &format!("{name}: {value}")])
    }

    /// As a PUT of this file, sent without asking first (`Expect`), as most clients do.
    #[must_use]
    pub fn upload(self, file: &Path) -> Self {
        let file = file.display().to_string();
        self.arguments(["--header", "Expect:", "--upload-file", &file])
    }

    /// With the answer's body in this file.
    #[must_use]
    pub fn output(mut self, file: &Path) -> Self {
        self.output = file.to_owned();
        self
    }

    /// Trusting this authority.
    #[must_use]
    pub fn trusting(self, ca: &Ca) -> Self {
        self.arguments(["--cacert", &ca.file().display().to_string()])
    }

    /// Showing this certificate where it is asked for one.
    #[must_use]
    pub fn showing(self, leaf: &Leaf) -> Self {
        let (certificate, key) = (leaf.certificate.display(), leaf.key.display());
        self.arguments([
            "--cert",
            &certificate.to_string(),
            "--key",
            &key.to_string(),
        ])
    }

    /// With more of curl's own arguments.
    #[must_use]
    pub fn arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Runs it to its end.
    pub async fn run(self) -> CurlAnswer {
        let Self {
            mut command,
            output,
        } = self;
        command.arg("--output").arg(output);
        let mut child = Child::start("curl", command);
        let exit_code = child.exit().await.code();
        let said = child.stdout().text();
        let (status, version) = said.trim().split_once(' ').unwrap_or_default();
        CurlAnswer {
            exit_code,
            status: status.parse().unwrap_or_default(),
            version: version.to_owned(),
            complaint: child.stderr().text(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::{Answer, Origin};

    #[tokio::test]
    async fn it_tells_the_status_and_keeps_the_body() {
        let origin = Origin::answering(|_| Answer::new(404, &[], "gone")).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        let answer = Curl::get(&origin.url())
            .header("X-One", "1")
            .output(file.path())
            .run()
            .await;
        let expected = CurlAnswer {
            exit_code: Some(0),
            status: 404,
            version: "1.1".to_owned(),
            complaint: String::new(),
        };
        assert_eq!(answer, expected);
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "gone");
        assert_eq!(origin.requests()[0].head.value("x-one").unwrap(), "1");
    }
}

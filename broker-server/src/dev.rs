//! The development server: one tenant, agent and caller with their own certificates and secrets, on this machine alone.
//!
//! It is an ordinary server with a settings file of its own making, which is there to be read and copied.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use broker_process::settings::{Environment, SettingsError};
use broker_process::tls;
use broker_protocol::{AccessToken, AccessTokenError, TokenDigest, TokenKind};
use clap::ArgMatches;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

use crate::config::{Config, ListenerConfig};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the authority lasts: longer than any development server.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());
/// How long the server's certificate lasts; some clients refuse more than 398 days.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(365 * DAY.as_secs());
/// What ends within this time is renewed at start, so that nothing ends while a server runs.
const RENEW_AHEAD: Duration = Duration::from_secs(30 * DAY.as_secs());
/// A machine's clock may be a little behind the one that issued.
const CLOCK_SLACK: Duration = DAY;

const AGENT: &str = "demo";
const CALLER_HEADER: &str = "Broker-Authorization: Bearer ";

/// Why the development server's folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevError {
    /// A file or the folder itself cannot be read or written.
    #[error("{}: {source} (choose another folder with --dev-dir)", .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file that was made here is not what it was.
    #[error("{}: {reason} (delete it, and a new one is made)", .path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("making a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A flag or a variable is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A port was asked for that other machines reach.
    #[error(
        "the development server listens on this machine alone, and {0} is not such an address (use 127.0.0.1, or write \
         a settings file and name it with --config)"
    )]
    NotLoopback(SocketAddr),
}

/// The folder of a development server, filled.
#[derive(Debug)]
pub struct DevServer {
    folder: PathBuf,
}

impl DevServer {
    /// Makes what is missing in `folder`, an absolute path, and keeps what is there.
    ///
    /// # Errors
    /// If it cannot be written, or holds something else under the same names.
    pub fn prepare(folder: &Path) -> Result<Self, DevError> {
        let dev = Self {
            folder: folder.to_owned(),
        };
        dev.private_folder(&dev.folder)?;
        dev.private_folder(&dev.agent_data())?;
        dev.certificates()?;
        let agent = dev.agent_digest()?;
        let caller = dev.caller_digest()?;
        dev.write(&dev.settings_file(), &settings_yaml(&agent, &caller))?;
        Ok(dev)
    }

    /// The server's settings, made anew at every start.
    fn settings_file(&self) -> PathBuf {
        self.path("server.yaml")
    }

    /// Reads those settings under the flags and variables that the operator gave; relative paths in those are relative
    /// to `folder`.
    ///
    /// # Errors
    /// If one of them is wrong, or asks for a port that other machines reach.
    pub fn load(
        &self,
        arguments: &ArgMatches,
        environment: Environment,
        folder: &Path,
    ) -> Result<Config, DevError> {
        let file = self.settings_file();
        let environment = environment.with("BROKER_SERVER_CONFIG", &file.to_string_lossy());
        let config = Config::load(arguments, &environment, folder)?;
        let listeners = [
            &config.agents_listener,
            &config.callers_listener,
            &config.admin_listener,
        ];
        for ListenerConfig { listen, .. } in listeners {
            if !listen.ip().is_loopback() {
                return Err(DevError::NotLoopback(*listen));
            }
        }
        Ok(config)
    }

    /// What to run next: an agent, and a request to it. Holds no secret, only the files that do.
    #[must_use]
    pub fn instructions(
        &self,
        agents: SocketAddr,
        callers: SocketAddr,
        admin: SocketAddr,
    ) -> String {
        let quoted = |path: PathBuf| shell_quoted(&path.to_string_lossy());
        format!(
            "Development server, for this machine alone; its files are in {folder}\n\
             agents https://{agents}  callers http://{callers}  admin http://{admin}\n\
             \n\
             Start the agent {AGENT} in a folder with an accept.json (without one it denies everything):\n\
             \n\
             \x20 BROKER_TOKEN={AGENT} \\\n\
             \x20 BROKER_SERVER_URL=https://{agents} \\\n\
             \x20 BROKER_AGENT_SECRET_FILE={secret} \\\n\
             \x20 TUNNEL_CA_CERT={authority} \\\n\
             \x20 BROKER_DATA_DIR={data} \\\n\
             \x20 broker-client run\n\
             \n\
             Send a request through it, as the caller dev:\n\
             \n\
             \x20 curl -H @{header} http://{callers}/broker/{AGENT}/\n",
            folder = self.folder.display(),
            secret = quoted(self.path("agent.secret")),
            authority = quoted(self.path("ca.pem")),
            data = quoted(self.agent_data()),
            header = quoted(self.path("caller.header")),
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn agent_data(&self) -> PathBuf {
        self.path("agent-data")
    }

    /// The authority and the server's certificate. Keys stay; a certificate is made again when it nears its end.
    fn certificates(&self) -> Result<(), DevError> {
        let authority = Issuer::new(authority_params(), self.key("ca.key")?);
        let authority_file = self.path("ca.pem");
        if !holds(&authority_file, CERTIFICATE_LIFE + RENEW_AHEAD) {
            let certificate =
                lasting(authority_params(), AUTHORITY_LIFE).self_signed(authority.key())?;
            self.write(&authority_file, &certificate.pem())?;
        }
        let key = self.key("server.key")?;
        let certificate_file = self.path("server.pem");
        if !holds(&certificate_file, RENEW_AHEAD) {
            let certificate =
                lasting(server_params()?, CERTIFICATE_LIFE).signed_by(&key, &authority)?;
            self.write(&certificate_file, &certificate.pem())?;
        }
        Ok(())
    }

    fn key(&self, name: &str) -> Result<KeyPair, DevError> {
        let pem = self.keep(name, || Ok(KeyPair::generate()?.serialize_pem()))?;
        KeyPair::from_pem(&pem).map_err(|_| self.content(name, "not a private key in PEM"))
    }

    fn agent_digest(&self) -> Result<TokenDigest, DevError> {
        let name = "agent.secret";
        let text = self.keep(name, || {
            Ok(format!(
                "{}\n",
                AccessToken::generate(TokenKind::Agent).expose()
            ))
        })?;
        self.digest(name, AccessToken::parse(TokenKind::Agent, &text))
    }

    /// The caller's secret is kept as the header line that curl reads from a file.
    fn caller_digest(&self) -> Result<TokenDigest, DevError> {
        let name = "caller.header";
        let text = self.keep(name, || {
            let token = AccessToken::generate(TokenKind::Caller);
            Ok(format!("{CALLER_HEADER}{}\n", token.expose()))
        })?;
        let secret = text
            .strip_prefix(CALLER_HEADER)
            .ok_or_else(|| self.content(name, "not the header line of a caller"))?;
        self.digest(name, AccessToken::parse(TokenKind::Caller, secret))
    }

    fn digest(
        &self,
        name: &str,
        token: Result<AccessToken, AccessTokenError>,
    ) -> Result<TokenDigest, DevError> {
        match token {
            Ok(token) => Ok(token.digest()),
            Err(error) => Err(self.content(name, &error.to_string())),
        }
    }

    /// The text of a file, which is made where it is missing.
    fn keep(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<String, DevError>,
    ) -> Result<String, DevError> {
        let path = self.path(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = make()?;
                self.write(&path, &text)?;
                Ok(text)
            }
            Err(source) => Err(DevError::Folder { path, source }),
        }
    }

    /// Writes a file that only this user can read, whole or not at all.
    fn write(&self, path: &Path, text: &str) -> Result<(), DevError> {
        let unfinished = path.with_extension("unfinished");
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&unfinished, path));
        written.map_err(|source| DevError::Folder {
            path: path.to_owned(),
            source,
        })
    }

    fn private_folder(&self, path: &Path) -> Result<(), DevError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| DevError::Folder {
                path: path.to_owned(),
                source,
            })
    }

    fn content(&self, name: &str, reason: &str) -> DevError {
        DevError::Content {
            path: self.path(name),
            reason: reason.to_owned(),
        }
    }
}

fn settings_yaml(agent: &TokenDigest, caller: &TokenDigest) -> String {
    format!(
        "# The development server's settings, made anew at every start: copy this file to make your own.\n\
         agents-listener:\n\
         \x20 listen: \"127.0.0.1:8443\"\n\
         \x20 tls: {{certificate: server.pem, key: server.key}}\n\
         callers-listener: {{listen: \"127.0.0.1:8080\"}}\n\
         admin-listener: {{listen: \"127.0.0.1:9090\"}}\n\
         tenants:\n\
         \x20 default:\n\
         \x20   agents:\n\
         \x20     {AGENT}: {{secrets: [\"{agent}\"]}}\n\
         \x20   callers:\n\
         \x20     dev: {{credential: broker-authorization, secrets: [\"{caller}\"], agents: [{AGENT}]}}\n"
    )
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("broker development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn server_params() -> Result<CertificateParams, DevError> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = common_name("broker development server");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn lasting(mut params: CertificateParams, life: Duration) -> CertificateParams {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = date_time_ymd(1970, 1, 1) + since_epoch;
    params.not_before = now - CLOCK_SLACK;
    params.not_after = now + life;
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Whether a certificate is there and lasts for `ahead` from now; one that cannot be read is made again.
fn holds(path: &Path, ahead: Duration) -> bool {
    tls::outlives(path, ahead).unwrap_or(false)
}

/// A word as a shell reads it back.
fn shell_quoted(word: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+@:,".contains(&b);
    if word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::config::run_command;

    /// A folder that goes away with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            Self(std::env::temp_dir().join(format!("broker dev {} {number}", std::process::id())))
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).unwrap()
        }
    }

    fn load(dev: &DevServer, arguments: &[&str]) -> Result<Config, DevError> {
        let arguments = run_command().get_matches_from(["run"].iter().chain(arguments));
        dev.load(&arguments, Environment::default(), Path::new("/"))
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const FILES: [&str; 7] = [
        "agent.secret",
        "ca.key",
        "ca.pem",
        "caller.header",
        "server.key",
        "server.pem",
        "server.yaml",
    ];

    #[test]
    fn what_it_makes_is_a_server_that_loads() {
        let folder = Folder::new();
        let dev = DevServer::prepare(&folder.0).unwrap();
        let config = load(&dev, &[]).unwrap();
        assert!(config.agents_listener.acceptor(&[]).unwrap().is_some());
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn everything_is_kept_from_start_to_start_and_from_other_users() {
        let folder = Folder::new();
        DevServer::prepare(&folder.0).unwrap();
        let first = FILES.map(|name| folder.text(name));
        DevServer::prepare(&folder.0).unwrap();
        assert_eq!(FILES.map(|name| folder.text(name)), first);
        for name in FILES {
            let mode = fs::metadata(folder.0.join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_certificate_near_its_end_is_made_again_with_the_same_key() {
        let folder = Folder::new();
        let dev = DevServer::prepare(&folder.0).unwrap();
        let key = KeyPair::from_pem(&folder.text("server.key")).unwrap();
        let short = lasting(server_params().unwrap(), RENEW_AHEAD - DAY)
            .self_signed(&key)
            .unwrap();
        dev.write(&dev.path("server.pem"), &short.pem()).unwrap();
        DevServer::prepare(&folder.0).unwrap();
        assert_ne!(folder.text("server.pem"), short.pem());
        assert_eq!(folder.text("server.key"), key.serialize_pem());
        assert!(holds(&dev.path("server.pem"), RENEW_AHEAD));
    }

    #[test]
    fn the_instructions_name_files_and_hold_no_secret() {
        let folder = Folder::new();
        let dev = DevServer::prepare(&folder.0).unwrap();
        let address = "127.0.0.1:8443".parse().unwrap();
        let text = dev.instructions(address, address, address);
        assert!(!text.contains("brk_"), "{text}");
        let secret = format!(
            "BROKER_AGENT_SECRET_FILE='{}'",
            folder.0.join("agent.secret").display()
        );
        assert!(text.contains(&secret), "{text}");
        let header = format!("-H @'{}'", folder.0.join("caller.header").display());
        assert!(text.contains(&header), "{text}");
    }

    #[test]
    fn a_spoilt_secret_is_named_and_not_repeated() {
        let folder = Folder::new();
        DevServer::prepare(&folder.0).unwrap();
        fs::write(folder.0.join("agent.secret"), "hunter2").unwrap();
        let error = DevServer::prepare(&folder.0).unwrap_err().to_string();
        assert!(
            error.contains("agent.secret: not a broker secret"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_port_for_other_machines_is_refused() {
        let folder = Folder::new();
        let dev = DevServer::prepare(&folder.0).unwrap();
        let error = load(&dev, &["--callers-listener-listen", "0.0.0.0:8080"]).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("0.0.0.0:8080 is not such an address"),
            "{error}"
        );
    }
}

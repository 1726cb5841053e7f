//! One running agent and the folder that is its own: audit log, control socket, lock.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use broker_protocol::InstanceName;
use rustix::fs::Access;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::credential::KEY_LEN;

/// Where agents keep what outlives a process; each instance has a sub-folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataFolder {
    /// Named by the operator; not being able to use it is an error.
    Named(PathBuf),
    /// Nobody named one; where it cannot be written the agent runs without a folder.
    Default(PathBuf),
}

impl DataFolder {
    /// The folder of all instances.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Named(path) | Self::Default(path) => path,
        }
    }

    pub(crate) fn of_instance(&self, name: &InstanceName) -> PathBuf {
        self.path().join(name.as_str())
    }
}

/// This process as one instance of the agent; holds the folder's lock while it lives.
#[derive(Debug)]
pub struct Instance {
    name: InstanceName,
    run_id: Uuid,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Folder {
        path: PathBuf,
        /// Locked as long as it is open; the kernel lets go of it however the process ends.
        _lock: File,
    },
    Nowhere {
        warning: String,
    },
}

/// Why the instance's folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceError {
    /// The folder cannot be made, read or written.
    #[error(
        "data folder {path}: {source} (mount it writable, or `chown {uid} {path}`: the agent runs as uid {uid})",
        path = path.display()
    )]
    Unusable {
        /// What could not be made or opened.
        path: PathBuf,
        /// The user that this process runs as.
        uid: u32,
        /// What the operating system says.
        source: io::Error,
    },
    /// Another process is this instance.
    #[error(
        "data folder {path} is in use by process {pid} (stop it, or give this agent another name in BROKER_INSTANCE)",
        path = path.display()
    )]
    InUse {
        /// The instance's folder.
        path: PathBuf,
        /// The process that holds it, as it wrote itself into the lock; `unknown` if it did not.
        pid: String,
    },
}

impl Instance {
    /// Makes and locks `<data>/<name>/`.
    ///
    /// # Errors
    /// [`InstanceError::InUse`] where another process holds the folder, [`InstanceError::Unusable`]
    /// where a named folder cannot be made, read or written.
    pub fn open(data: &DataFolder, name: &InstanceName) -> Result<Self, InstanceError> {
        let path = data.of_instance(name);
        let home = match (take(&path), data) {
            (Ok(lock), _) => Home::Folder { path, _lock: lock },
            (Err(error @ InstanceError::Unusable { .. }), DataFolder::Default(_)) => {
                Home::Nowhere {
                    warning: nowhere(&error),
                }
            }
            (Err(error), _) => return Err(error),
        };
        Ok(Self {
            name: name.clone(),
            run_id: Uuid::new_v4(),
            home,
        })
    }

    /// Whether [`Instance::open`] would get its folder, and the warning that would come with it. Nothing is made, and
    /// nothing is held on to.
    ///
    /// # Errors
    /// As [`Instance::open`].
    pub(crate) fn look(
        data: &DataFolder,
        name: &InstanceName,
    ) -> Result<Option<String>, InstanceError> {
        match (look_at(&data.of_instance(name)), data) {
            (Ok(()), _) => Ok(None),
            (Err(error @ InstanceError::Unusable { .. }), DataFolder::Default(_)) => {
                Ok(Some(nowhere(&error)))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The instance's name.
    #[must_use]
    pub fn name(&self) -> &InstanceName {
        &self.name
    }

    /// Names this process; every start has a new one.
    #[must_use]
    pub fn run_id(&self) -> Uuid {
        self.run_id
    }

    /// The audit log's file; `None` where there is no folder.
    #[must_use]
    pub fn audit_log(&self) -> Option<PathBuf> {
        self.file(AUDIT_LOG)
    }

    /// The socket that `broker-client status` asks; `None` where there is no folder.
    #[must_use]
    pub fn control_socket(&self) -> Option<PathBuf> {
        self.file(CONTROL_SOCKET)
    }

    /// The key of the credentials' fingerprints, made at the instance's first start; where there is no folder, this
    /// process's own.
    ///
    /// # Errors
    /// [`InstanceError::Unusable`] where its file can be neither read nor made, or is no key.
    pub(crate) fn fingerprint_key(&self) -> Result<Zeroizing<[u8; KEY_LEN]>, InstanceError> {
        let Some(path) = self.file("fingerprint.key") else {
            return Ok(new_key());
        };
        let key = match fs::read(&path).map(Zeroizing::new) {
            Ok(bytes) => <[u8; KEY_LEN]>::try_from(bytes.as_slice())
                .map(Zeroizing::new)
                .map_err(|_| io::Error::other("is no key: remove it, and a new one is made")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = new_key();
                write_whole(&path, key.as_slice()).map(|()| key)
            }
            Err(error) => Err(error),
        };
        key.map_err(|source| InstanceError::Unusable {
            path,
            uid: own_uid(),
            source,
        })
    }

    /// What the operator should know about this instance's folder.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        match &self.home {
            Home::Folder { .. } => None,
            Home::Nowhere { warning } => Some(warning),
        }
    }

    /// Where a file of this instance stands; `None` where there is no folder.
    pub(crate) fn file(&self, name: &str) -> Option<PathBuf> {
        match &self.home {
            Home::Folder { path, .. } => Some(path.join(name)),
            Home::Nowhere { .. } => None,
        }
    }
}

/// The audit log's name in an instance's folder.
pub(crate) const AUDIT_LOG: &str = "audit.jsonl";

fn new_key() -> Zeroizing<[u8; KEY_LEN]> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    rand::fill(&mut *key).expect("the system has a random source");
    key
}

/// Makes a file that this user alone can read, with all of its content or not at all.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// The control socket's name in an instance's folder.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";

/// The user that this process runs as.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn nowhere(error: &InstanceError) -> String {
    format!(
        "{error}; the audit log goes to stdout, and there is no control socket: set BROKER_DATA_DIR to a writable folder \
         to keep it"
    )
}

/// What [`take`] would come to.
fn look_at(folder: &Path) -> Result<(), InstanceError> {
    let lock_path = folder.join("lock");
    match OpenOptions::new().read(true).write(true).open(&lock_path) {
        Ok(mut lock) => match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Err(InstanceError::InUse {
                path: folder.to_owned(),
                pid: holder(&mut lock),
            }),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
        },
        // Whoever can write the nearest folder that is there can make what is not.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let there = folder.ancestors().find(|folder| folder.exists());
            let there = there.unwrap_or(folder);
            let may_write = Access::WRITE_OK | Access::EXEC_OK;
            rustix::fs::access(there, may_write)
                .map_err(io::Error::from)
                .map_err(unusable(there))
        }
        Err(error) => Err(unusable(&lock_path)(error)),
    }
}

fn unusable(path: &Path) -> impl FnOnce(io::Error) -> InstanceError {
    let path = path.to_owned();
    move |source| InstanceError::Unusable {
        path,
        uid: own_uid(),
        source,
    }
}

fn take(folder: &Path) -> Result<File, InstanceError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(unusable(folder))?;
    close_to_others(folder);

    let lock_path = folder.join("lock");
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(unusable(&lock_path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(InstanceError::InUse {
                path: folder.to_owned(),
                pid: holder(&mut lock),
            });
        }
        Err(TryLockError::Error(source)) => return Err(unusable(&lock_path)(source)),
    }
    lock.set_len(0)
        .and_then(|()| writeln!(lock, "{}", std::process::id()))
        .map_err(unusable(&lock_path))?;
    Ok(lock)
}

/// Takes others' access away from a folder that existed before us.
///
/// A volume may belong to another user and admit us by group; its owner decided that, so not being
/// allowed to change the mode is no reason to stay down.
fn close_to_others(folder: &Path) {
    let open = fs::metadata(folder).is_ok_and(|found| found.mode() & 0o077 != 0);
    if open && let Err(error) = fs::set_permissions(folder, fs::Permissions::from_mode(0o700)) {
        tracing::warn!(folder = %folder.display(), %error, "the data folder is open to other users");
    }
}

fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.take(20).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A folder of one test, removed with everything in it.
    pub(crate) struct TestFolder(PathBuf);

    impl TestFolder {
        pub(crate) fn new() -> Self {
            let path =
                std::env::temp_dir().join(format!("broker-test-{}", Uuid::new_v4().simple()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for TestFolder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn name() -> InstanceName {
        "default".parse().unwrap()
    }

    #[test]
    fn an_instance_has_a_folder_that_only_its_user_enters() {
        let data = TestFolder::new();
        let folder = data.path().join("default");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();

        let instance = Instance::open(&DataFolder::Named(data.path().into()), &name()).unwrap();

        assert_eq!(instance.audit_log().unwrap(), folder.join("audit.jsonl"));
        assert_eq!(
            instance.control_socket().unwrap(),
            folder.join("control.sock")
        );
        assert_eq!(instance.warning(), None);
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_second_process_is_refused_naming_folder_and_pid() {
        let data = TestFolder::new();
        for folder in [
            DataFolder::Named(data.path().join("a")),
            DataFolder::Default(data.path().join("b")),
        ] {
            let first = Instance::open(&folder, &name()).unwrap();

            let text = Instance::open(&folder, &name()).unwrap_err().to_string();
            let path = folder.of_instance(&name());
            let expected = format!(
                "{} is in use by process {}",
                path.display(),
                std::process::id()
            );
            assert!(text.contains(&expected), "{text}");

            drop(first);
            Instance::open(&folder, &name()).unwrap();
        }
    }

    #[test]
    fn a_named_folder_that_cannot_be_used_is_an_error_with_path_cause_and_fix() {
        let data = TestFolder::new();
        let file = data.path().join("file");
        fs::write(&file, "").unwrap();

        let error = Instance::open(&DataFolder::Named(file.clone()), &name()).unwrap_err();

        let text = error.to_string();
        for part in [
            file.to_str().unwrap(),
            "Not a directory",
            "mount it writable",
            "chown",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn without_a_writable_default_folder_the_agent_runs_and_says_so() {
        let data = TestFolder::new();
        let file = data.path().join("file");
        fs::write(&file, "").unwrap();

        let instance = Instance::open(&DataFolder::Default(file), &name()).unwrap();

        assert_eq!(instance.audit_log(), None);
        assert_eq!(instance.control_socket(), None);
        assert!(
            instance
                .warning()
                .unwrap()
                .contains("audit log goes to stdout")
        );
    }

    #[test]
    fn the_key_of_fingerprints_stays_and_is_its_users_alone() {
        let data = TestFolder::new();
        let folder = DataFolder::Named(data.path().into());
        let key = || {
            let instance = Instance::open(&folder, &name()).unwrap();
            instance.fingerprint_key()
        };
        let first = key().unwrap();
        assert_eq!(key().unwrap(), first);
        let path = folder.of_instance(&name()).join("fingerprint.key");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let written: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(written.len(), 2, "the lock and the key: {written:?}");

        fs::write(&path, "short").unwrap();
        let error = key().unwrap_err().to_string();
        assert!(error.contains("is no key: remove it"), "{error}");
        fs::remove_file(&path).unwrap();
        assert_ne!(key().unwrap(), first);
    }

    #[test]
    fn every_start_has_its_own_run_id() {
        let data = TestFolder::new();
        let folder = DataFolder::Named(data.path().into());
        let first = Instance::open(&folder, &name()).unwrap().run_id();
        assert_ne!(Instance::open(&folder, &name()).unwrap().run_id(), first);
    }
}

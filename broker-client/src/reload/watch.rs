//! Hears of what happens in the folders that lead to a file.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, Event, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Symbolic links that are followed, as many as Linux does.
const MOST_LINKS: usize = 40;

/// Watches folders, never the file itself: that is replaced more often than written.
pub(super) struct Watch {
    watcher: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
}

impl Watch {
    /// `hints` is notified of whatever happens; many events may be one notification.
    pub(super) fn new(hints: Arc<Notify>) -> notify::Result<Self> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if !event.is_ok_and(|event| is_reading(event.kind)) {
                hints.notify_one();
            }
        })?;
        Ok(Self {
            watcher,
            folders: BTreeSet::new(),
        })
    }

    /// Watches the folders that lead to `path` as it is now, and no others. Those that stay are watched anew: another
    /// folder may be there under the same name.
    pub(super) fn follow(&mut self, path: &Path) -> notify::Result<()> {
        for folder in std::mem::take(&mut self.folders) {
            // Fails where the folder is gone, and its watch with it.
            let _ = self.watcher.unwatch(&folder);
        }
        self.folders = folders(path);
        for folder in &self.folders {
            self.watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(())
    }
}

/// We read the file after each event: without this, that would be the next one.
fn is_reading(kind: EventKind) -> bool {
    kind.is_access() && kind != EventKind::Access(AccessKind::Close(AccessMode::Write))
}

/// The folders whose entries decide what `path` leads to: the file's own, and that of each symbolic link on the way.
/// In a Kubernetes volume, `accept.json` leads through the link `..data` to a folder that is new with each change.
fn folders(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut links = 0;
    let mut here = PathBuf::from("/");
    let mut ahead: VecDeque<OsString> = components(path).collect();
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            here.pop();
            continue;
        }
        let entry = here.join(&name);
        let link = fs::read_link(&entry).ok().filter(|_| links < MOST_LINKS);
        if link.is_some() || ahead.is_empty() {
            folders.insert(here.clone());
        }
        match link {
            Some(target) => {
                links += 1;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                for component in components(&target).rev() {
                    ahead.push_front(component);
                }
            }
            None => here = entry,
        }
    }
    folders
}

/// Names and `..`, in order.
fn components(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::instance::tests::TestFolder;

    fn tree(folder: &TestFolder) -> PathBuf {
        let root = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(root.join("mount/..1")).unwrap();
        fs::write(root.join("mount/..1/accept.json"), "{}").unwrap();
        symlink("..1", root.join("mount/..data")).unwrap();
        symlink("..data/accept.json", root.join("mount/accept.json")).unwrap();
        root
    }

    #[test]
    fn every_folder_on_the_way_to_the_file_counts() {
        let folder = TestFolder::new();
        let root = tree(&folder);
        let names = |path: &Path| -> Vec<PathBuf> {
            let relative = |folder: &PathBuf| folder.strip_prefix(&root).unwrap().to_owned();
            folders(path).iter().map(relative).collect()
        };
        let expect = |names: &[&str]| -> Vec<PathBuf> { names.iter().map(PathBuf::from).collect() };

        let plain = root.join("mount/..1/accept.json");
        assert_eq!(names(&plain), expect(&["mount/..1"]));
        let mounted = root.join("mount/accept.json");
        assert_eq!(names(&mounted), expect(&["mount", "mount/..1"]));
        symlink(root.join("mount"), root.join("current")).unwrap();
        let linked = root.join("mount/../current/accept.json");
        assert_eq!(names(&linked), expect(&["", "mount", "mount/..1"]));
        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(names(&root.join("loop/x")), expect(&["", "loop"]));
    }

    #[tokio::test]
    async fn a_change_is_heard_of() {
        let folder = TestFolder::new();
        let file = tree(&folder).join("mount/accept.json");
        let hints = Arc::new(Notify::new());
        let mut watch = Watch::new(Arc::clone(&hints)).unwrap();
        watch.follow(&file).unwrap();

        fs::write(&file, "{ }").unwrap();
        timeout(Duration::from_secs(30), hints.notified())
            .await
            .unwrap();
    }

    #[test]
    fn reading_is_no_change() {
        for (kind, expected) in [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), true),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), true),
            (
                EventKind::Access(AccessKind::Close(AccessMode::Write)),
                false,
            ),
            (EventKind::Other, false),
        ] {
            assert_eq!(is_reading(kind), expected, "{kind:?}");
        }
    }
}

//! A Kubernetes volume, as the kubelet fills it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Makes a volume at `mount` with this one file, and returns the file's path.
pub fn mounted(mount: &Path, file: &str, content: &str) -> PathBuf {
    kubelet_writes(mount, 1, file, content);
    let path = mount.join(file);
    symlink(Path::new("..data").join(file), &path).unwrap();
    path
}

/// Updates it: a new folder, a link to it renamed over the old one, the old folder removed.
pub fn kubelet_writes(mount: &Path, version: usize, file: &str, content: &str) {
    let name = format!("..2026_11_24_{version}");
    fs::create_dir(mount.join(&name)).unwrap();
    fs::write(mount.join(&name).join(file), content).unwrap();
    let data = mount.join("..data");
    let before = fs::read_link(&data).ok();
    symlink(&name, mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), &data).unwrap();
    if let Some(before) = before {
        fs::remove_dir_all(mount.join(before)).unwrap();
    }
}

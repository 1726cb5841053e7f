//! Recordings and files of the outside world that tests compare against, where they are at hand.

use std::path::PathBuf;

/// The variable that names the folder of recordings.
pub const VARIABLE: &str = "BROKER_TEST_CORPUS";

/// The file or folder `name` of the recordings: in the folder that [`VARIABLE`] names, or in the
/// folder `shared` beside the checkout. `None` where there is none; the test then says on the
/// terminal that it is skipped, and returns.
pub fn path(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(VARIABLE).map_or_else(beside_the_checkout, PathBuf::from);
    let path = folder.join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!(
        "skipped: {} is not there ({VARIABLE} names the folder)",
        path.display()
    );
    None
}

fn beside_the_checkout() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_recording_is_none() {
        assert_eq!(path("no/such/recording"), None);
    }
}

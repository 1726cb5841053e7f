//! The file in which pauses survive restarts.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Pause;
use crate::instance::write_whole;

/// The file's name in an instance's folder.
pub(super) const NAME: &str = "pauses.json";
/// The version of its form.
const VERSION: u32 = 1;
/// Largest file that is read, in bytes: as many pauses as there may be take less.
const MAX_LEN: u64 = 4 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    v: u32,
    pauses: Vec<Pause>,
}

/// What stands in it; nothing where there is none.
///
/// # Errors
/// What is wrong with it. Nobody can say then what was paused.
pub(super) fn read(path: &Path) -> Result<Vec<Pause>, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_LEN).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{}: cannot be read: {error}", path.display())),
    }
    let content: Content = serde_json::from_str(&text).map_err(|error| {
        format!(
            "{}: is not what this program wrote: {error}",
            path.display()
        )
    })?;
    match content.v {
        VERSION => Ok(content.pauses),
        other => Err(format!("{}: has version {other}", path.display())),
    }
}

/// Writes all of it, or nothing.
pub(super) fn write(path: &Path, pauses: &[Pause]) -> io::Result<()> {
    let content = Content {
        v: VERSION,
        pauses: pauses.to_vec(),
    };
    write_whole(path, &serde_json::to_vec(&content)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::tests::TestFolder;

    fn pause() -> Pause {
        let at = |text| humantime::parse_rfc3339(text).unwrap();
        Pause {
            agent: "sonarqube".to_owned(),
            rule: Some(3),
            accept_sha256: Some("ab".to_owned()),
            reason: "why".to_owned(),
            since: at("2026-11-24T12:00:00.125Z"),
            until: Some(at("2026-11-24T14:00:00.125Z")),
            uid: Some(0),
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = TestFolder::new();
        let path = folder.path().join(NAME);
        assert_eq!(read(&path), Ok(Vec::new()));
        for pauses in [vec![pause()], Vec::new()] {
            write(&path, &pauses).unwrap();
            assert_eq!(read(&path), Ok(pauses));
        }
    }

    #[test]
    fn whatever_else_stands_there_is_an_error_that_names_the_file() {
        let folder = TestFolder::new();
        let path = folder.path().join(NAME);
        write(&path, &[pause()]).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        for broken in [
            "",
            "{",
            "[]",
            r#"{"v":2,"pauses":[]}"#,
            r#"{"v":1,"pauses":[{"agent":"sonarqube"}]}"#,
            r#"{"v":1,"pauses":[],"resumed":true}"#,
            &good.replace("\"rule\"", "\"rul\""),
            &good.replace("14:00", "25:00"),
            good.get(..good.len() - 1).unwrap(),
        ] {
            std::fs::write(&path, broken).unwrap();
            let error = read(&path).unwrap_err();
            assert!(error.contains(path.to_str().unwrap()), "{broken}: {error}");
        }
    }
}

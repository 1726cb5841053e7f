//! Files that others write, read within bounds.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there, or may not be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A pipe, a device or a folder.
    #[error("is no regular file")]
    NotRegular,
    /// It has more bytes than this.
    #[error("has more than {0} bytes")]
    TooLong(usize),
}

/// Puts all that a file holds behind what is in `into`, at most `most` bytes.
///
/// # Errors
/// If it cannot be read, is no regular file, or is longer.
pub fn read(path: &Path, most: usize, into: &mut Vec<u8>) -> Result<(), ReadError> {
    // Opening a pipe would wait for whoever writes to it, and a device has no end.
    let found = fs::metadata(path)?;
    if !found.is_file() {
        return Err(ReadError::NotRegular);
    }
    // Room for all: a buffer that grows leaves copies of what may be secret.
    into.reserve(usize::try_from(found.len()).map_or(most, |len| len.min(most)) + 64);
    let before = into.len();
    // One byte more than the limit, so that a file that is too long is seen to be.
    File::open(path)?.take(most as u64 + 1).read_to_end(into)?;
    if into.len() - before > most {
        return Err(ReadError::TooLong(most));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(path: &Path, most: usize) -> String {
        read(path, most, &mut Vec::new()).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let path = std::env::temp_dir().join(format!("broker-regular-{}", std::process::id()));
        fs::write(&path, "12345").unwrap();
        let mut all = b"0".to_vec();
        read(&path, 5, &mut all).unwrap();
        assert_eq!(all, b"012345");
        assert_eq!(error(&path, 4), "has more than 4 bytes");
        fs::remove_file(&path).unwrap();
        assert!(error(&path, 5).starts_with("cannot be read: "));
    }

    #[test]
    fn what_has_no_end_is_not_opened() {
        assert_eq!(error(Path::new("/dev/zero"), 5), "is no regular file");
        assert_eq!(error(Path::new("/"), 5), "is no regular file");
    }
}

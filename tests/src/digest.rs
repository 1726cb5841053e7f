//! SHA-256 of what was sent and what arrived, and test data to send.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};

/// Bytes handled at once when data is made, sent or read.
pub const CHUNK: usize = 64 * 1024;

/// A running SHA-256 and the number of bytes it has seen.
pub struct Sha256 {
    context: Context,
    length: u64,
}

impl Sha256 {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self {
            context: Context::new(&SHA256),
            length: 0,
        }
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// What was taken in so far.
    pub fn finish(self) -> Digest {
        let bytes = self.context.finish();
        let sha256 = bytes
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Digest {
            length: self.length,
            sha256,
        }
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

/// Length and SHA-256 of a body; two that are equal are the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// Bytes.
    pub length: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

impl Digest {
    /// Of bytes at hand.
    pub fn of(bytes: &[u8]) -> Self {
        let mut sha256 = Sha256::new();
        sha256.update(bytes);
        sha256.finish()
    }

    /// Of a file, read in chunks.
    pub fn of_file(path: &Path) -> Self {
        let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut sha256 = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            match file
                .read(&mut chunk)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            {
                0 => return sha256.finish(),
                read => sha256.update(&chunk[..read]),
            }
        }
    }
}

/// Reproducible data of a given length that does not compress, in chunks of at most [`CHUNK`].
pub struct Noise {
    random: fastrand::Rng,
    left: u64,
}

impl Noise {
    /// `length` bytes; the same ones each time.
    pub fn new(length: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(length),
            left: length,
        }
    }

    /// The digest of the whole.
    pub fn digest(length: u64) -> Digest {
        let mut sha256 = Sha256::new();
        Self::new(length).for_each(|chunk| sha256.update(&chunk));
        sha256.finish()
    }

    /// Writes the whole to a new file.
    pub fn write_file(length: u64, path: &Path) {
        let mut file = File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for chunk in Self::new(length) {
            file.write_all(&chunk)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
}

impl Iterator for Noise {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.left == 0 {
            return None;
        }
        let mut chunk = vec![0; CHUNK.min(usize::try_from(self.left).unwrap_or(CHUNK))];
        self.random.fill(&mut chunk);
        self.left -= chunk.len() as u64;
        Some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_published_one() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            Digest::of(b"abc"),
            Digest {
                length: 3,
                sha256: expected.to_owned()
            }
        );
    }

    #[test]
    fn noise_in_a_file_is_the_noise_that_is_sent() {
        let length = CHUNK as u64 * 2 + 17;
        let file = tempfile::NamedTempFile::new().unwrap();
        Noise::write_file(length, file.path());
        assert_eq!(Digest::of_file(file.path()), Noise::digest(length));
        assert_eq!(Noise::digest(length).length, length);
    }
}

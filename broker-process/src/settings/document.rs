//! A YAML file that is no settings file, read as strictly as one.

use std::path::PathBuf;

use super::file::{Node, Problems, SettingsFile};
use super::reading::SettingsError;

/// A YAML document; what is wrong in it is collected, and named with file and path.
#[derive(Debug)]
pub struct Document {
    file: SettingsFile,
    problems: Problems,
}

impl Document {
    /// Reads `text`, which stands in the file called `name` in the operator's words.
    ///
    /// # Errors
    /// If it is not YAML.
    pub fn parse(name: &str, text: &str) -> Result<Self, SettingsError> {
        let file = SettingsFile::parse(name, text, PathBuf::new()).map_err(SettingsError::one)?;
        Ok(Self {
            file,
            problems: Problems::default(),
        })
    }

    /// All of it.
    #[must_use]
    pub fn root(&self) -> Node<'_> {
        self.file.root(&self.problems)
    }

    /// Whether all was well.
    ///
    /// # Errors
    /// If anything was noted.
    pub fn finish(self) -> Result<(), SettingsError> {
        SettingsError::of(self.problems)
    }
}

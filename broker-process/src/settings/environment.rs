//! The process's environment as a value, so that tests pass one and nothing ever sets a variable.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use zeroize::Zeroizing;

/// The variables that the process was started with.
///
/// They can hold credentials, so `Debug` shows how many there are and no more, and they are wiped on drop.
#[derive(Clone, Default)]
pub struct Environment {
    values: BTreeMap<String, Zeroizing<String>>,
    not_utf8: BTreeSet<String>,
}

impl Environment {
    /// The variables of this process.
    #[must_use]
    pub fn capture() -> Self {
        let mut environment = Self::default();
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            match value.into_string() {
                Ok(value) => drop(environment.values.insert(name, value.into())),
                Err(_) => drop(environment.not_utf8.insert(name)),
            }
        }
        environment
    }

    /// A variable; an empty one counts as unset.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.values.get(name)?;
        (!value.is_empty()).then_some(value)
    }

    /// The same with one variable set.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.not_utf8.remove(name);
        self.values.insert(name.to_owned(), value.to_owned().into());
        self
    }

    /// Whether a variable is set to something that cannot be read as text.
    #[must_use]
    pub fn is_unreadable(&self, name: &str) -> bool {
        self.not_utf8.contains(name)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        variables.into_iter().collect()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self {
            values: variables
                .into_iter()
                .map(|(name, value)| (name.into(), Zeroizing::new(value.into())))
                .collect(),
            not_utf8: BTreeSet::new(),
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.values.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let environment = Environment::from([("ACCEPT", ""), ("PORT", "1")]);
        assert_eq!(environment.get("ACCEPT"), None);
        assert_eq!(environment.get("PORT"), Some("1"));
    }

    #[test]
    fn debug_shows_no_value() {
        assert!(!format!("{:?}", Environment::from([("TOKEN", "hidden")])).contains("hidden"));
    }
}

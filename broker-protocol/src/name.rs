//! Names of tenants, agents and callers: public, compared in lower case, never secrets.

use std::fmt;
use std::str::FromStr;

/// Longest name, in bytes; it fits in a DNS label.
const MAX_LEN: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a name: use 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
)]
pub struct NameError {
    text: String,
}

/// Lower-cases and checks `text` (SPEC.md §2).
fn parse(text: &str) -> Result<Box<str>, NameError> {
    let name = text.to_ascii_lowercase();
    let starts_well = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let in_alphabet = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if starts_well && in_alphabet && name.len() <= MAX_LEN {
        Ok(name.into())
    } else {
        Err(NameError {
            text: text.chars().take(80).collect(),
        })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The name, in lower case.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Whose agents and callers these are; nothing of one tenant reaches another's.
    TenantId
}
name! {
    /// The name under which callers reach an agent: `/broker/{agent}/…`.
    AgentName
}
name! {
    /// The name of a caller, as it stands in the customer's audit log.
    CallerName
}
name! {
    /// Which of an agent's installations this is; names its folder in the data folder.
    InstanceName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_lower_case() {
        assert_eq!(
            "SonarQube".parse::<AgentName>().unwrap().as_str(),
            "sonarqube"
        );
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for text in ["", "-a", ".a", "a/b", "a b", "é", &"a".repeat(64)] {
            assert!(text.parse::<AgentName>().is_err(), "{text:?}");
        }
        assert!("a".repeat(63).parse::<AgentName>().is_ok());
    }
}

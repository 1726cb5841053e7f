//! Under construction.
#![warn(clippy::wildcard_enum_match_arm)]

mod target;
mod template;
pub use target::*;
pub use template::*;

//! Under construction.

pub mod config;
pub mod token;

//! Under construction.

pub mod audit;
pub mod instance;

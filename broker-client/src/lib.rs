//! Under construction.

pub mod audit;
pub mod config;
pub mod control;
pub mod instance;
pub mod local;
pub mod status;

//! End-to-end tests: real sockets, real programs, one promise each.

mod real_programs;
mod request;

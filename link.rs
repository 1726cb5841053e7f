//! How both programs are linked: a build script of theirs.

/// Places that the loader must fill in, packed: half a megabyte less to load and to keep in memory. It takes a glibc
/// of 2.36 (Debian 12) or later, and a linker that does not know it says so and goes on.
const PACK_RELOCATIONS: &str = "cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs";

#[expect(clippy::print_stdout, reason = "it is how Cargo is told")]
fn main() {
    println!("cargo:rerun-if-changed=../link.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|it| it == value);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("{PACK_RELOCATIONS}");
    }
}

//! What the build script of `packetwatch` and the `xtask` binary both have to know: which Rust
//! tool chain builds the eBPF object, and which linker turns its bitcode into that object.

pub mod linker;
pub mod toolchain;

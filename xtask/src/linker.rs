//! bpf-linker, which links the eBPF crate's LLVM bitcode into one object.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The release set-up installs. Linker and compiler move together: a linker on an older LLVM than
/// the compiler's cannot read its bitcode.
pub const VERSION: &str = "0.13.0";

/// Whether the `bpf-linker` on the `PATH` can link what a compiler on LLVM `llvm` emits.
///
/// # Errors
///
/// It cannot, in words that continue a sentence beginning with "bpf-linker".
pub fn check(llvm: u32) -> Result<()> {
    let Some(path) = on_path("bpf-linker") else {
        bail!("{VERSION} is missing");
    };
    let run = Command::new(&path)
        .arg("--version")
        .output()
        .with_context(|| format!("does not start ({})", path.display()))?;
    if !run.status.success() {
        // After `rustup update` the LLVM it was linked with may be gone.
        bail!(
            "does not run: {}",
            String::from_utf8_lossy(&run.stderr).trim()
        );
    }
    let answer = String::from_utf8_lossy(&run.stdout);
    let version = answer.trim().trim_start_matches("bpf-linker ");
    if minor_version(version) < minor_version(VERSION) {
        bail!("is {version}, older than {VERSION}");
    }
    let program =
        fs::read(&path).with_context(|| format!("cannot be read ({})", path.display()))?;
    match linked_llvm(&program) {
        Some(own) if own < llvm => bail!("is linked with LLVM {own}, the compiler with {llvm}"),
        // A release binary carries its LLVM inside and does not say which; it is the newest.
        _ => Ok(()),
    }
}

/// Where `program` is on the `PATH`.
pub fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Major and minor; what is not a version is older than every version.
fn minor_version(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The major version of the LLVM library an ELF program asks the dynamic loader for.
fn linked_llvm(program: &[u8]) -> Option<u32> {
    const LIBRARY: &[u8] = b"\0libLLVM.so.";
    let at = program
        .windows(LIBRARY.len())
        .position(|window| window == LIBRARY)?;
    let digits = program[at + LIBRARY.len()..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    String::from_utf8(digits.copied().collect())
        .ok()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(minor_version("0.9.15") < minor_version(VERSION));
        assert!(minor_version("0.13.4") == minor_version(VERSION));
        assert!(minor_version("1.0.0") > minor_version(VERSION));
    }

    #[test]
    fn the_llvm_a_linker_was_linked_with_is_read_from_its_library_name() {
        assert_eq!(
            linked_llvm(b"\x7fELF\0libc.so.6\0libLLVM.so.22.1-rust-1.95.0-stable\0"),
            Some(22)
        );
        assert_eq!(linked_llvm(b"\x7fELF\0libLLVM.so.23.1\0"), Some(23));
        assert_eq!(linked_llvm(b"\x7fELF\0libc.so.6\0"), None);
    }
}

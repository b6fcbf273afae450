//! What the filter needs of a kernel: asked for when one refuses it, to say in words what is missing.

use std::io;

use aya::{
    maps::MapType,
    programs::{ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

/// The first kernel with everything the filter uses, major and minor.
pub const OLDEST_KERNEL: (u32, u32) = (5, 18);

/// One thing that a kernel has or has not.
struct Feature {
    name: &'static str,
    /// the first kernel that has it
    since: (u32, u32),
    ask: fn() -> Result<bool, ProgramError>,
}

const FEATURES: [Feature; 7] = [
    Feature {
        name: "BPF hash maps",
        since: (3, 19),
        ask: || Ok(is_map_supported(MapType::Hash)?),
    },
    Feature {
        name: "BPF arrays by CPU",
        since: (4, 6),
        ask: || Ok(is_map_supported(MapType::PerCpuArray)?),
    },
    Feature {
        name: "XDP programs",
        since: (4, 8),
        ask: || is_program_supported(ProgramType::Xdp),
    },
    Feature {
        name: "BPF arrays of maps",
        since: (4, 12),
        ask: || Ok(is_map_supported(MapType::ArrayOfMaps)?),
    },
    Feature {
        name: "BPF ring buffers",
        since: (5, 8),
        ask: || Ok(is_map_supported(MapType::RingBuf)?),
    },
    Feature {
        name: "the coarse clock (bpf_ktime_get_coarse_ns)",
        since: (5, 11),
        ask: || is_helper_supported(ProgramType::Xdp, BpfHelper::BPF_FUNC_ktime_get_coarse_ns),
    },
    Feature {
        name: "the length of a fragmented XDP frame (bpf_xdp_get_buff_len)",
        since: (5, 18),
        ask: || is_helper_supported(ProgramType::Xdp, BpfHelper::BPF_FUNC_xdp_get_buff_len),
    },
];

/// What was found missing.
#[derive(Debug, PartialEq)]
enum Lack {
    /// the bpf system call itself
    Syscall,
    Features(Vec<(&'static str, (u32, u32))>),
}

/// What this kernel lacks, with the remedy; `None` if it has everything, or does not say.
pub(super) fn missing() -> Option<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    explain(release.trim(), &ask(&FEATURES))
}

fn ask(features: &[Feature]) -> Lack {
    let mut lacking = Vec::new();
    for Feature { name, since, ask } in features {
        match ask() {
            Ok(true) => {}
            Ok(false) => lacking.push((*name, *since)),
            Err(error) if errno(&error) == Some(libc::ENOSYS) => return Lack::Syscall,
            // It does not say, for want of rights or of memory: then that is the trouble.
            Err(_) => {}
        }
    }
    Lack::Features(lacking)
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(call) => call.io_error.raw_os_error(),
        ProgramError::IOError(error) => io::Error::raw_os_error(error),
        _ => None,
    }
}

fn explain(release: &str, lack: &Lack) -> Option<String> {
    let (major, minor) = OLDEST_KERNEL;
    let lacking = match lack {
        Lack::Syscall => "the bpf system call (CONFIG_BPF_SYSCALL)".to_owned(),
        Lack::Features(lacking) if lacking.is_empty() => return None,
        Lack::Features(lacking) => {
            let name = |(name, (major, minor)): &(&str, (u32, u32))| {
                format!("{name}, since Linux {major}.{minor}")
            };
            lacking.iter().map(name).collect::<Vec<_>>().join("; ")
        }
    };
    let remedy = if is_old(release) {
        format!("run Linux {major}.{minor} or later")
    } else {
        format!(
            "it is no older than {major}.{minor}, so it was built without, or a seccomp filter \
             (of a container, say) hides it: run a distribution's kernel, or lift the filter"
        )
    };
    Some(format!(
        "this kernel ({release}) lacks {lacking}. Packetwatch needs Linux {major}.{minor} or later: \
         {remedy}"
    ))
}

/// Whether a release is known to be older than [`OLDEST_KERNEL`].
fn is_old(release: &str) -> bool {
    version(release).is_some_and(|version| version < OLDEST_KERNEL)
}

/// Major and minor of a release such as `6.1.0-18-amd64`.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    const RING: (&str, (u32, u32)) = ("BPF ring buffers", (5, 8));
    const LENGTH: (&str, (u32, u32)) = ("bpf_xdp_get_buff_len", (5, 18));

    #[test]
    fn what_an_old_kernel_lacks_is_named_with_the_kernel_to_run() {
        let message = explain("4.19.0-26-amd64", &Lack::Features(vec![RING, LENGTH])).unwrap();
        assert_eq!(
            message,
            "this kernel (4.19.0-26-amd64) lacks BPF ring buffers, since Linux 5.8; \
             bpf_xdp_get_buff_len, since Linux 5.18. Packetwatch needs Linux 5.18 or later: run \
             Linux 5.18 or later"
        );
    }

    #[test]
    fn a_new_kernel_that_lacks_something_is_not_called_old() {
        for release in ["5.18.0", "6.1.0-18-amd64", "10.0-rc1"] {
            let message = explain(release, &Lack::Features(vec![RING])).unwrap();
            assert!(message.contains("seccomp"), "{message}");
        }
        let message = explain("5.17.9", &Lack::Features(vec![LENGTH])).unwrap();
        assert!(!message.contains("seccomp"), "{message}");
        let message = explain("6.1.0", &Lack::Syscall).unwrap();
        assert!(message.contains("CONFIG_BPF_SYSCALL"), "{message}");
    }

    #[test]
    fn a_kernel_that_lacks_nothing_or_does_not_say_is_not_blamed() {
        assert_eq!(explain("4.19.0", &Lack::Features(Vec::new())), None);
        fn failing(errno: i32) -> Result<bool, ProgramError> {
            let io_error = io::Error::from_raw_os_error(errno);
            let call = "bpf_map_create";
            Err(SyscallError { call, io_error }.into())
        }
        let feature = |ask| Feature {
            name: "a feature",
            since: (5, 8),
            ask,
        };
        let silent = ask(&[
            feature(|| failing(libc::EPERM)),
            feature(|| failing(libc::ENOMEM)),
        ]);
        assert_eq!(silent, Lack::Features(Vec::new()));
        assert_eq!(ask(&[feature(|| failing(libc::ENOSYS))]), Lack::Syscall);
        let none = ask(&[feature(|| Ok(true))]);
        assert_eq!(none, Lack::Features(Vec::new()));
        let lacking = ask(&[feature(|| Ok(true)), feature(|| Ok(false))]);
        assert_eq!(lacking, Lack::Features(vec![("a feature", (5, 8))]));
    }
}

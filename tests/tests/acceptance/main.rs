//! The main job from outside: real TCP over veth pairs against the real daemon, for IPv4 and IPv6.
//!
//! * `seed`: the five tests that the first Packetwatch shipped.
//! * `bans`: how a ban ends, grows, and is taken off.
//! * `lists`: what allow and deny do to real callers.
//! * `places`: several interfaces, units wider than an address, observe mode, the end of the daemon.
//!
//! Every test makes its own namespaces, so that all run side by side.

mod bans;
mod lists;
mod places;
mod scene;
mod seed;

/// Makes two tests, `ipv4::name` and `ipv6::name`, of each function that takes a family.
macro_rules! for_both_families {
    ($($name:ident),+ $(,)?) => {
        mod ipv4 {
            $(
                #[test]
                #[ignore = "needs root: network namespaces and BPF"]
                fn $name() {
                    super::$name(packetwatch_tests::Family::V4);
                }
            )+
        }
        mod ipv6 {
            $(
                #[test]
                #[ignore = "needs root: network namespaces and BPF"]
                fn $name() {
                    super::$name(packetwatch_tests::Family::V6);
                }
            )+
        }
    };
}
use for_both_families;

//! The interface of the default route, which `make run` watches where it is told no other.

use std::fs;

use anyhow::{Context as _, Result};

/// The interface of the default route with the best metric, IPv4 before IPv6.
///
/// # Errors
///
/// There is no default route, or /proc is not there.
pub(crate) fn default_interface() -> Result<String> {
    let ipv4 = read("/proc/net/route")?;
    // Absent where the kernel has no IPv6.
    let ipv6 = read("/proc/net/ipv6_route").unwrap_or_default();
    from_ipv4(&ipv4).or_else(|| from_ipv6(&ipv6)).context(
        "this host has no default route, so the interface to watch is not known: name one, as in `make run IFACE=eth0`",
    )
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// RTF_REJECT: a route that says "unreachable". The kernel's own IPv6 default is one, on `lo`.
const REJECT: u32 = 0x200;

/// Columns: interface, destination, gateway, flags (hex), refs, use, metric, mask, ...
fn from_ipv4(table: &str) -> Option<String> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (&interface, &destination, &mask) = (fields.first()?, fields.get(1)?, fields.get(7)?);
        let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
        let metric: u32 = fields.get(6)?.parse().ok()?;
        let is_default = destination == "00000000" && mask == "00000000" && flags & REJECT == 0;
        is_default.then_some((metric, interface))
    });
    routes
        .min_by_key(|(metric, _)| *metric)
        .map(|(_, interface)| interface.to_owned())
}

/// Columns, all hex: destination, its length, source, its length, next hop, metric, refs, use,
/// flags, interface.
fn from_ipv6(table: &str) -> Option<String> {
    let routes = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let hex = |column: usize| u32::from_str_radix(fields.get(column)?, 16).ok();
        let (length, metric, flags) = (hex(1)?, hex(5)?, hex(8)?);
        let interface = *fields.get(9)?;
        let is_default = length == 0 && flags & REJECT == 0 && interface != "lo";
        is_default.then_some((metric, interface))
    });
    routes
        .min_by_key(|(metric, _)| *metric)
        .map(|(_, interface)| interface.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

    #[test]
    fn the_ipv4_default_with_the_lowest_metric_wins() {
        let table = format!(
            "{HEAD}wlan0\t00000000\t010200C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
             eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
             docker0\t000012C6\t00000000\t0001\t0\t0\t0\t00FEFFFF\t0\t0\t0\n"
        );
        assert_eq!(from_ipv4(&table).as_deref(), Some("eth0"));
    }

    #[test]
    fn half_of_the_internet_is_not_a_default_route() {
        let table = format!("{HEAD}tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n");
        assert_eq!(from_ipv4(&table), None);
    }

    #[test]
    fn the_kernels_unreachable_ipv6_default_is_no_default() {
        let zero = "0".repeat(32);
        let reject =
            format!("{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n");
        assert_eq!(from_ipv6(&reject), None);
        let real =
            format!("{zero} 00 {zero} 00 {zero} 00000400 00000001 00000000 00000003     eth1\n");
        assert_eq!(from_ipv6(&(reject + &real)).as_deref(), Some("eth1"));
    }
}

//! The contestants beside ours, each as its own manual sets it up.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::IpAddr,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use packetwatch_tests::Netns;

/// xdp-filter (xdp-tools) on one interface, as long as the value lives.
///
/// It keeps its maps at fixed paths of the BPF file system, for all namespaces alike. Here it has
/// one of its own, mounted for one process and gone with it: an xdp-filter of the host's is never met.
pub(crate) struct XdpFilter {
    keeper: Child,
    netns: Netns,
    interface: String,
}

impl XdpFilter {
    /// Attaches it natively and has it drop what comes from `sources`.
    pub(crate) fn load(netns: &Netns, interface: &str, sources: &[IpAddr]) -> Result<Self> {
        let mut script = format!(
            "set -e; exec 2>&1; mount -t bpf bpf /sys/fs/bpf; \
             xdp-filter load {interface} -m native -f ipv4,ipv6 -p allow; "
        );
        for source in sources {
            script += &format!("xdp-filter ip -m src {source}; ");
        }
        // It ends, and the file system with it, when we close its standard input, or are gone.
        script += "echo loaded; read -r _";
        let mut keeper = netns
            .command("unshare")
            .args(["--mount", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("run nsenter (package util-linux)")?;
        let stdout = keeper.stdout.take().context("stdout is piped")?;
        let mut words = Vec::new();
        let mut is_loaded = false;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            if line == "loaded" {
                is_loaded = true;
                break;
            }
            words.push(line);
        }
        let filter = Self {
            keeper,
            netns: netns.clone(),
            interface: interface.to_owned(),
        };
        ensure!(
            is_loaded,
            "xdp-filter (package xdp-tools) did not load: {}",
            words.join(" | ")
        );
        Ok(filter)
    }

    /// The program on the interface: libxdp's dispatcher, which calls xdp-filter's.
    pub(crate) fn program_id(&self) -> Result<u32> {
        program_id(&self.netns, &self.interface)
    }
}

impl Drop for XdpFilter {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        if let Err(error) = self.keeper.wait() {
            eprintln!("xdp-filter's keeper did not end: {error}");
        }
    }
}

/// The XDP program on an interface.
pub(crate) fn program_id(netns: &Netns, interface: &str) -> Result<u32> {
    let xdp = netns
        .xdp(interface)
        .with_context(|| format!("{interface} has no XDP program"))?;
    let id = xdp["prog"]["id"]
        .as_u64()
        .with_context(|| format!("`ip -j link` names no program: {xdp}"))?;
    Ok(u32::try_from(id)?)
}

/// Has nftables drop what comes from `source`, in the earliest hook it has, by a set of intervals
/// such as a list of prefixes is. It goes with the namespace.
pub(crate) fn load_nftables(netns: &Netns, interface: &str, source: IpAddr) -> Result<()> {
    let IpAddr::V4(source) = source else {
        bail!("the set is of IPv4 addresses, and {source} is none");
    };
    let rules = format!(
        "table netdev bench {{\n\
         set banned {{\ntype ipv4_addr\nflags interval\nelements = {{ {source} }}\n}}\n\
         chain ingress {{\ntype filter hook ingress device \"{interface}\" priority 0\n\
         ip saddr @banned counter drop\n}}\n}}\n"
    );
    let mut nft = netns
        .command("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("run nsenter (package util-linux)")?;
    nft.stdin
        .take()
        .context("stdin is piped")?
        .write_all(rules.as_bytes())?;
    ensure!(
        nft.wait()?.success(),
        "nft (package nftables) refuses the rules"
    );
    Ok(())
}

/// Packets that nftables dropped.
pub(crate) fn nftables_dropped(netns: &Netns) -> Result<u64> {
    let output = netns
        .command("nft")
        .args(["list", "chain", "netdev", "bench", "ingress"])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let (_, after) = text
        .split_once("counter packets ")
        .context("nft shows no counter")?;
    let number = after.split(' ').next().unwrap_or_default();
    Ok(number.parse()?)
}

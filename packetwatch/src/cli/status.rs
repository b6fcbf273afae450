//! `packetwatch status`.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use super::{
    Asking, memory,
    output::{Format, when},
};
use crate::api::{
    CertificateStatus, ChainedStatus, LeftoverStatus, Observed, ObservedReason, ObservedRule,
    PendingChange, Status,
};

pub(super) async fn run(asking: Asking) -> anyhow::Result<()> {
    let (client, mut out) = asking.open()?;
    let status: Status = client.get("/v1/status").await?;
    match out.format {
        Format::Json | Format::Jsonl => out.json(&status)?,
        Format::Table => lines(&status).iter().try_for_each(|line| out.line(line))?,
    }
    out.flush()
}

fn lines(status: &Status) -> Vec<String> {
    let Status {
        version,
        mode,
        mode_from: _,
        bypass_until,
        pending,
        uptime_seconds,
        rules_from,
        interfaces,
        leftovers,
        chain,
        certificate,
        lists,
        packets,
        observed,
        counting,
        memory,
    } = status;
    let uptime = humantime::format_duration(Duration::from_secs(*uptime_seconds));
    let observing = if mode == "observe" {
        ", dropping nothing"
    } else {
        ""
    };
    let mut lines = vec![
        format!("version     {version}"),
        format!("mode        {mode}{observing}"),
        format!("uptime      {uptime}"),
        format!("rules from  {rules_from}"),
    ];
    if let Some(until) = bypass_until {
        let until = when(*until);
        lines.push(format!("bypass      every packet passes until {until}"));
    }
    if let Some(PendingChange {
        id, object, until, ..
    }) = pending
    {
        lines.push(format!(
            "pending     {object} changed; taken back at {} unless `packetwatch confirm {id}`",
            when(*until)
        ));
    }
    lines.extend(interfaces.iter().map(|interface| {
        let name = &interface.name;
        let formerly = match &interface.configured_as {
            Some(configured) if configured != name => format!(" (configured as {configured})"),
            _ => String::new(),
        };
        let how = if interface.program_id == 0 {
            let error = interface.error.as_deref();
            error.map_or_else(String::new, |error| format!(": {error}"))
        } else {
            let mode = interface.xdp_mode.as_deref().unwrap_or("unknown");
            let ends = interface.not_pinned.as_deref();
            let ends = ends.map_or_else(String::new, |why| {
                format!("; THE FILTER ENDS WITH THE DAEMON: {why}")
            });
            let addresses = addresses(&interface.addresses);
            format!(
                ", {mode} mode, program {}{addresses}{ends}",
                interface.program_id
            )
        };
        format!("interface   {name}{formerly}: {}{how}", interface.state)
    }));
    let leftovers = leftovers.iter();
    lines.extend(leftovers.map(|left| format!("leftover    {}", left_on(left))));
    lines.extend(
        chain
            .iter()
            .map(|chain| format!("chain       {}", handed_on(chain))),
    );
    let certificate = certificate.iter();
    lines.extend(certificate.map(|shown| format!("certificate {}", shown_until(shown))));
    lines.push(format!(
        "lists       {} allowed, {} denied, {} banned",
        lists.allow, lists.deny, lists.bans
    ));
    let unenforced = observed.iter().flat_map(would_drop);
    let observed = match packets.observed {
        0 => String::new(),
        n => format!(", {n} of them only because of observe mode"),
    };
    let (passed, dropped) = (packets.passed, packets.dropped);
    lines.push(format!(
        "packets     {dropped} dropped, {passed} passed{observed}"
    ));
    lines.extend(unenforced);
    if counting.flood {
        lines.push(format!(
            "flood       new sources are counted from {} calls on; {} packets were of others",
            counting.admission_threshold, counting.not_admitted
        ));
    }
    if counting.crowded {
        let crowd = "crowd       room is short: sources that are silent for 2 s are forgotten, so that \
                     slow ones may go unseen: raise capacity.callers in the configuration";
        lines.push(crowd.to_owned());
    }
    lines.push(format!("memory      {}", memory::whole(memory)));
    let longest = memory.maps.iter().map(|map| map.map.len()).max();
    let width = longest.unwrap_or_default();
    lines.extend(memory.maps.iter().map(|map| {
        let used = memory::used(map).unwrap_or_else(|full| full);
        format!("map         {:width$}  {used}", map.map)
    }));
    lines
}

/// The first of them: a host may have thousands.
fn addresses(all: &BTreeSet<IpAddr>) -> String {
    const NAMED: usize = 4;
    let named: Vec<String> = all.iter().take(NAMED).map(ToString::to_string).collect();
    match all.len().saturating_sub(NAMED) {
        _ if all.is_empty() => String::new(),
        0 => format!(", {}", named.join(", ")),
        more => format!(", {} and {more} more", named.join(", ")),
    }
}

/// What filters an interface that is not configured.
pub(super) fn left_on(leftover: &LeftoverStatus) -> String {
    let LeftoverStatus { name, program_id } = leftover;
    format!(
        "{name}: program {program_id} of an earlier process, with lists, bans and rules of its own; \
         `packetwatch detach --interface {name}` takes it off"
    )
}

/// Who gets what passes.
pub(super) fn handed_on(chain: &ChainedStatus) -> String {
    let ChainedStatus {
        path,
        state,
        program_id,
        program,
        error,
    } = chain;
    match (program_id, program, error) {
        (Some(id), Some(name), _) => format!("{path}: {state}, program {id} ({name})"),
        (_, _, Some(error)) => format!("{path}: {state}, so packets pass: {error}"),
        _ => format!("{path}: {state}, so packets pass"),
    }
}

/// What the API shows, and how long clients take it.
pub(super) fn shown_until(certificate: &CertificateStatus) -> String {
    let CertificateStatus {
        path,
        expires_at,
        state,
    } = certificate;
    let Some(at) = expires_at.map(when) else {
        return format!("{path}: {state}, since its end cannot be read");
    };
    match state.as_str() {
        "ended" => format!("{path}: ended at {at}, so clients refuse it: renew it"),
        "due" => format!("{path}: ends at {at}: renew it"),
        _ => format!("{path}: {state} until {at}"),
    }
}

/// What observe mode or a bypass lets pass, by reason and by rule.
fn would_drop(observed: &Observed) -> Vec<String> {
    let Observed { by_reason, by_rule } = observed;
    let reasons = by_reason.iter().map(|ObservedReason { reason, packets }| {
        format!("would drop  {packets} packets for {reason}")
    });
    let rules = by_rule.iter().map(|of| {
        let ObservedRule {
            rule,
            bans,
            packets,
        } = of;
        format!("would drop  {packets} packets of {bans} that the rule {rule} has banned")
    });
    reasons.chain(rules).collect()
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::api::{Counting, InterfaceStatus, ListCounts, MapStatus, Memory, PacketCounts};

    #[test]
    fn the_state_fits_a_few_lines() {
        let map = |name: &str, entries| MapStatus {
            map: name.to_owned(),
            entries,
            capacity: 2,
            bytes: 2048,
        };
        let status = Status {
            version: "1.2.3".to_owned(),
            mode: "observe".to_owned(),
            mode_from: "api".to_owned(),
            bypass_until: Some(OffsetDateTime::UNIX_EPOCH),
            pending: Some(PendingChange {
                id: "19b".to_owned(),
                object: "deny".to_owned(),
                made_at: OffsetDateTime::UNIX_EPOCH,
                until: OffsetDateTime::UNIX_EPOCH,
            }),
            uptime_seconds: 61,
            rules_from: "file".to_owned(),
            interfaces: vec![
                InterfaceStatus {
                    name: "wan0".to_owned(),
                    configured_as: Some("eth0".to_owned()),
                    state: "attached".to_owned(),
                    interface_index: 2,
                    mtu: Some(1500),
                    addresses: ["198.18.0.1", "2001:db8::1"]
                        .map(|a| a.parse().unwrap())
                        .into(),
                    xdp_mode: Some("native".to_owned()),
                    program_id: 7,
                    error: None,
                    not_pinned: Some("no bpffs".to_owned()),
                    not_native: None,
                },
                InterfaceStatus {
                    name: "eth1".to_owned(),
                    configured_as: Some("eth1".to_owned()),
                    state: "missing".to_owned(),
                    interface_index: 0,
                    mtu: None,
                    addresses: [].into(),
                    xdp_mode: None,
                    program_id: 0,
                    error: None,
                    not_pinned: None,
                    not_native: None,
                },
            ],
            leftovers: vec![LeftoverStatus {
                name: "eth2".to_owned(),
                program_id: 8,
            }],
            chain: Some(ChainedStatus {
                path: "/sys/fs/bpf/own".to_owned(),
                state: "up".to_owned(),
                program_id: Some(9),
                program: Some("own".to_owned()),
                error: None,
            }),
            certificate: Some(certificate("valid")),
            lists: ListCounts {
                allow: 1,
                deny: 2,
                bans: 3,
            },
            packets: PacketCounts {
                passed: 10,
                dropped: 0,
                observed: 4,
            },
            observed: Some(Observed {
                by_reason: vec![ObservedReason {
                    reason: "ban".to_owned(),
                    packets: 4,
                }],
                by_rule: vec![ObservedRule {
                    rule: "port-scan".to_owned(),
                    bans: 1,
                    packets: 4,
                }],
            }),
            counting: Counting {
                flood: true,
                admission_threshold: 37,
                not_admitted: 5,
                crowded: true,
                ..Counting::default()
            },
            memory: Memory {
                resident_bytes: Some(1024),
                maps_bytes: 2048,
                maps: vec![
                    map("callers", Some(1)),
                    map("bans", Some(2)),
                    map("calls", None),
                ],
            },
        };
        let expected = [
            "version     1.2.3",
            "mode        observe, dropping nothing",
            "uptime      1m 1s",
            "rules from  file",
            "bypass      every packet passes until 1970-01-01T00:00:00Z",
            "pending     deny changed; taken back at 1970-01-01T00:00:00Z unless `packetwatch confirm \
             19b`",
            "interface   wan0 (configured as eth0): attached, native mode, program 7, 198.18.0.1, \
             2001:db8::1; THE FILTER ENDS WITH THE DAEMON: no bpffs",
            "interface   eth1: missing",
            "leftover    eth2: program 8 of an earlier process, with lists, bans and rules of its own; \
             `packetwatch detach --interface eth2` takes it off",
            "chain       /sys/fs/bpf/own: up, program 9 (own)",
            "certificate /etc/cert.pem: valid until 1970-01-01T00:00:00Z",
            "lists       1 allowed, 2 denied, 3 banned",
            "packets     0 dropped, 10 passed, 4 of them only because of observe mode",
            "would drop  4 packets for ban",
            "would drop  4 packets of 1 that the rule port-scan has banned",
            "flood       new sources are counted from 37 calls on; 5 packets were of others",
            "crowd       room is short: sources that are silent for 2 s are forgotten, so that slow ones may \
             go unseen: raise capacity.callers in the configuration",
            "memory      daemon 1.0 KiB, maps 2.0 KiB",
            "map         callers  1 of 2 entries, 2.0 KiB",
            "map         bans     full with 2 entries, 2.0 KiB: raise capacity.bans in the configuration",
            "map         calls    2.0 KiB",
        ];
        assert_eq!(lines(&status), expected);
    }

    fn certificate(state: &str) -> CertificateStatus {
        CertificateStatus {
            path: "/etc/cert.pem".to_owned(),
            expires_at: (state != "unknown").then_some(OffsetDateTime::UNIX_EPOCH),
            state: state.to_owned(),
        }
    }

    #[test]
    fn a_certificate_says_what_is_to_be_done() {
        for (state, words) in [
            ("due", "ends at 1970-01-01T00:00:00Z: renew it"),
            ("ended", "clients refuse it"),
            ("unknown", "cannot be read"),
        ] {
            let told = shown_until(&certificate(state));
            assert!(told.contains(words), "{told}");
        }
    }

    #[test]
    fn a_chain_that_is_broken_says_that_packets_pass() {
        let chain = |state: &str, error: Option<&str>| ChainedStatus {
            path: "/sys/fs/bpf/own".to_owned(),
            state: state.to_owned(),
            program_id: None,
            program: None,
            error: error.map(str::to_owned),
        };
        let gone = handed_on(&chain("gone", None));
        assert_eq!(gone, "/sys/fs/bpf/own: gone, so packets pass");
        let refused = handed_on(&chain("refused", Some("it is a map")));
        assert_eq!(
            refused,
            "/sys/fs/bpf/own: refused, so packets pass: it is a map"
        );
    }
}

use super::*;

#[test]
fn prefixes_become_canonical() {
    // (text, prefix, host bits cleared)
    let table = [
        ("198.51.100.7", "198.51.100.7/32", false),
        ("198.51.100.7/32", "198.51.100.7/32", false),
        ("198.51.100.7/24", "198.51.100.0/24", true),
        ("198.51.100.0/24", "198.51.100.0/24", false),
        ("0.0.0.0/0", "0.0.0.0/0", false),
        ("1.2.3.4/0", "0.0.0.0/0", true),
        ("2001:DB8:0:0::1", "2001:db8::1/128", false),
        ("2001:db8::1/64", "2001:db8::/64", true),
        ("2001:db8::/128", "2001:db8::/128", false),
        ("::/0", "::/0", false),
        ("fe80::1", "fe80::1/128", false),
        ("::ffff:192.0.2.1", "192.0.2.1/32", false),
        ("::ffff:c000:201/128", "192.0.2.1/32", false),
        ("::ffff:192.0.2.1/120", "192.0.2.0/24", true),
        ("::ffff:0.0.0.0/96", "0.0.0.0/0", false),
        // The deprecated IPv4-compatible form is plain IPv6.
        ("::192.0.2.1", "::c000:201/128", false),
    ];
    for (text, prefix, host_bits_cleared) in table {
        let parsed = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(parsed.to_string(), prefix, "{text}");
        assert_eq!(parsed.host_bits_cleared, host_bits_cleared, "{text}");
    }
}

#[test]
fn what_is_no_prefix_is_named_with_the_remedy() {
    let table = [
        ("", "the prefix is empty: write an address"),
        ("/24", "\"/24\" is neither an address nor a prefix"),
        (" 10.0.0.1", "\" 10.0.0.1\" has white space"),
        ("10.0.0.0 /8", "has white space"),
        ("10.0.0.1\n", "\"10.0.0.1\\n\" has white space"),
        ("10.0.0.1,10.0.0.2", "is several prefixes"),
        ("fe80::1%eth0", "write the address without %eth0"),
        ("fe80::1%eth0/64", "write the address without %eth0"),
        ("10.0.0.1-10.0.0.9", "is a range"),
        ("10.0.0.1-9", "is a range"),
        (
            "10.0.0.0/33",
            "has the length \"33\": IPv4 lengths are whole numbers from 0 to 32",
        ),
        ("10.0.0.0/", "has the length \"\""),
        ("10.0.0.0/-1", "has the length \"-1\""),
        ("10.0.0.0/+8", "has the length \"+8\""),
        ("10.0.0.0/08", "has the length \"08\""),
        ("10.0.0.0/8/8", "has the length \"8/8\""),
        ("10.0.0.0/ 8", "has the length \" 8\""),
        ("::/129", "IPv6 lengths are whole numbers from 0 to 128"),
        ("::/256", "has the length \"256\""),
        (
            "10.0.0.0/255.255.0.0",
            "has a netmask: write the length instead, 10.0.0.0/16",
        ),
        (
            "10.0.0.0/0.0.0.255",
            "write the length instead, as in 198.51.100.0/24",
        ),
        (
            "2001:db8::/ffff:ffff::",
            "write the length instead, 2001:db8::/32",
        ),
        ("010.0.0.1", "has leading zeros"),
        ("10.0.0.01/8", "has leading zeros"),
        ("10/8", "write all four octets"),
        ("10.0.0", "write all four octets"),
        ("10.0.0.256", "is neither an address nor a prefix"),
        ("10.0.0.*", "is neither an address nor a prefix"),
        ("2001:db8:::1", "is neither an address nor a prefix"),
        ("[2001:db8::1]:80", "write the address alone"),
        ("10.0.0.1:80", "write the address alone"),
        ("www.example.com", "\"www.example.com\" is a name"),
        ("host-1/24", "is a name"),
        ("::ffff:10.0.0.1/95", "write the length 96 or more"),
    ];
    for (text, expected) in table {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text:?} says: {error}");
    }
}

#[test]
fn a_long_text_is_clipped() {
    let error = parse(&"ü".repeat(65)).unwrap_err();
    assert_eq!(error, PrefixError::Name(format!("{}...", "ü".repeat(64))));
    assert_eq!(
        parse(&"a".repeat(64)).unwrap_err(),
        PrefixError::Name("a".repeat(64))
    );
}

#[test]
fn units_follow_the_rule_except_for_link_local() {
    let table = [
        ("198.51.100.7", "198.51.100.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("169.254.3.4", "169.254.3.4/32"),
        ("169.253.255.255", "169.253.255.0/24"),
        ("fe80::1", "fe80::1/128"),
        ("febf:ffff::1", "febf:ffff::1/128"),
        ("fec0::1", "fec0::/48"),
        ("::ffff:198.51.100.7", "::/48"),
    ];
    for (address, expected) in table {
        let unit = unit(address.parse().unwrap(), 0, 24, 48);
        assert_eq!(unit.to_string(), expected, "{address}");
    }
    let whole = unit("198.51.100.7".parse().unwrap(), 0, 33, 64);
    assert_eq!(whole.to_string(), "198.51.100.7/32");
}

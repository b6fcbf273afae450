//! The four layers of the configuration, and what is said when one is wrong.

use std::{ffi::OsString, fs, path::PathBuf, time::Duration};

use packetwatch::{
    config::{Config, ConfigError, Flags, Mode, OnExit, Sources, XdpMode, template},
    log::LogFormat,
    rules::RuleSet,
};
use tempfile::TempDir;

/// Sources of one test: its own file, environment and flags, nothing of the machine's.
struct Setup {
    directory: TempDir,
    sources: Sources,
}

impl Setup {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let default_file = directory.path().join("packetwatch.toml");
        let sources = Sources {
            flags: Flags::default(),
            env: Vec::new(),
            default_file,
        };
        Self { directory, sources }
    }

    fn file(self, text: &str) -> Self {
        fs::write(&self.sources.default_file, text).unwrap();
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.env.push((name.into(), value.into()));
        self
    }

    fn flags(mut self, change: impl FnOnce(&mut Flags)) -> Self {
        change(&mut self.sources.flags);
        self
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.sources.clone())
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    /// What is said against it, the directory's name taken out.
    fn refusal(&self) -> String {
        self.here(&self.load().unwrap_err().to_string())
    }

    fn here(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.directory.path().display()), "")
    }
}

fn settings(config: &Config) -> Vec<(&'static str, toml::Value)> {
    config
        .settings()
        .map(|setting| (setting.key, setting.value))
        .collect()
}

#[test]
fn nothing_said_means_the_defaults() {
    let config = Setup::new().config();
    assert_eq!(config, Config::default());
    assert_eq!(config.mode, Mode::Enforce);
    assert_eq!(config.xdp_mode, XdpMode::Auto);
    assert_eq!(config.on_exit, OnExit::Detach);
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/packetwatch"));
    assert_eq!(config.bpffs, PathBuf::from("/sys/fs/bpf"));
    assert_eq!(config.api.listen, Some("127.0.0.1:7300".parse().unwrap()));
    assert_eq!(config.api.socket, Some("/run/packetwatch/api.sock".into()));
    assert!(config.protect.own && config.protect.gateway && config.protect.sessions);
    assert_eq!(
        (config.log.format, config.log.connections_per_second),
        (LogFormat::Json, 1000)
    );
    let capacity = &config.capacity;
    assert_eq!(
        (capacity.lists, capacity.bans, capacity.callers),
        (4_194_304, 65_536, 32_768)
    );
    assert_eq!(
        (config.rules.clone(), config.rules_from().as_str()),
        (RuleSet::default(), "built-in")
    );
    assert!(
        config
            .settings()
            .all(|setting| setting.origin.to_string() == "default")
    );
}

#[test]
fn a_chain_is_an_absolute_path_in_every_layer_or_nothing() {
    let chain = |setup: Setup| setup.config().chain;
    let own = Some(PathBuf::from("/sys/fs/bpf/own"));
    let file = || Setup::new().file("chain = \"/sys/fs/bpf/own\"\n");
    assert_eq!(chain(Setup::new()), None);
    assert_eq!(chain(file()), own);
    assert_eq!(chain(file().env("PACKETWATCH_CHAIN", "")), None);
    let other = "/sys/fs/bpf/other";
    let variable = chain(file().env("PACKETWATCH_CHAIN", other));
    assert_eq!(variable, Some(other.into()));
    let flag = file().env("PACKETWATCH_CHAIN", other);
    let flag = flag.flags(|flags| flags.chain = Some("/sys/fs/bpf/own".into()));
    assert_eq!(chain(flag), own);
    let refusal = Setup::new().file("chain = \"bpf/own\"\n").refusal();
    assert!(refusal.contains("packetwatch.toml:1:9"), "{refusal}");
    assert!(refusal.contains("absolute path"), "{refusal}");
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let mut setup = Setup::new();
    let told = |setup: &Setup| {
        let config = setup.config();
        let origin = setup.here(&config.origin("api.listen").to_string());
        (
            config.api.listen.map_or(0, |address| address.port()),
            origin,
        )
    };
    assert_eq!(told(&setup), (7300, "default".into()));
    setup = setup.file("[api]\nlisten = \"127.0.0.1:1\"\n");
    assert_eq!(told(&setup), (1, "packetwatch.toml:2:10".into()));
    setup = setup.env("PACKETWATCH_API__LISTEN", "127.0.0.1:2");
    assert_eq!(told(&setup), (2, "PACKETWATCH_API__LISTEN".into()));
    setup = setup.flags(|flags| flags.api = Some("127.0.0.1:3".into()));
    assert_eq!(told(&setup), (3, "--api".into()));
}

#[test]
fn off_loopback_takes_both_files_of_tls() {
    let said = |api: &str| {
        let setup = Setup::new().file(api);
        setup
            .load()
            .err()
            .map(|error| setup.here(&error.to_string()))
    };
    let tls = "[api.tls]\ncert = \"/c.pem\"\nkey = \"/k.pem\"\n";
    for address in [
        "127.0.0.1:1",
        "127.9.9.9:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
        "off",
    ] {
        assert_eq!(said(&format!("[api]\nlisten = {address:?}\n")), None);
        assert_eq!(said(&format!("[api]\nlisten = {address:?}\n{tls}")), None);
    }
    for address in [
        "0.0.0.0:1",
        "[::]:1",
        "198.51.100.1:1",
        "[::ffff:198.51.100.1]:1",
    ] {
        let text = said(&format!("[api]\nlisten = {address:?}\n")).unwrap();
        assert!(
            text.starts_with("packetwatch.toml:2:10: api.listen: "),
            "{text}"
        );
        assert!(text.contains("api.tls.cert"), "{text}");
        assert_eq!(said(&format!("[api]\nlisten = {address:?}\n{tls}")), None);
    }
    let half = said("[api.tls]\nkey = \"/k.pem\"\n").unwrap();
    assert!(
        half.starts_with("packetwatch.toml:2:7: api.tls.key: "),
        "{half}"
    );
    let config = Setup::new().file(tls).config();
    let again = Setup::new().file(&config.to_toml()).config();
    assert_eq!(again.api, config.api);
    assert_eq!(
        config.api.tls.files().unwrap().cert,
        PathBuf::from("/c.pem")
    );
}

#[test]
fn an_empty_variable_means_the_default() {
    let setup = Setup::new()
        .file("rules = []\n[api]\nlisten = \"off\"\n")
        .env("PACKETWATCH_API__LISTEN", "")
        .env("PACKETWATCH_RULES", "");
    let config = setup.config();
    assert_eq!(config.api, Config::default().api);
    assert_eq!(
        config.origin("api.listen").to_string(),
        "default (PACKETWATCH_API__LISTEN is empty)"
    );
    assert_eq!(
        (config.rules.clone(), config.rules_from().as_str()),
        (RuleSet::default(), "built-in")
    );
}

#[test]
fn every_flag_reaches_its_key() {
    let text = |text: &str| Some(text.to_owned());
    let setup = Setup::new().flags(|flags| {
        flags.interfaces = vec!["eth0".into(), "eth1".into()];
        flags.mode = text("observe");
        flags.xdp_mode = text("generic");
        flags.api = text("off");
        flags.socket = text("off");
        flags.state_dir = text("/s");
        flags.bpffs = text("/b");
        flags.on_exit = text("keep");
        flags.chain = text("/b/own");
        flags.log_format = text("text");
    });
    let config = setup.config();
    assert_eq!(config.interfaces, ["eth0", "eth1"]);
    assert_eq!(
        (config.mode, config.xdp_mode),
        (Mode::Observe, XdpMode::Generic)
    );
    assert_eq!(
        (config.api.listen, config.api.socket.as_ref()),
        (None, None)
    );
    assert_eq!(
        (config.state_dir.to_str(), config.bpffs.to_str()),
        (Some("/s"), Some("/b"))
    );
    assert_eq!(
        (config.on_exit, config.log.format),
        (OnExit::Keep, LogFormat::Text)
    );
    assert_eq!(config.chain, Some("/b/own".into()));
    let flagged = config
        .settings()
        .filter(|setting| setting.origin.to_string().starts_with("--"));
    assert_eq!(flagged.count(), 10);
}

#[test]
fn variables_are_written_as_a_shell_would() {
    let setup = Setup::new()
        .env("PACKETWATCH_INTERFACES", "eth0, eth1")
        .env("PACKETWATCH_PROTECT__SELF", "false")
        .env("PACKETWATCH_PROTECT__EXTRA", "[\"10.0.0.7/8\"]")
        .env("PACKETWATCH_LOG__CONNECTIONS_PER_SECOND", "1_000_000")
        .env("PACKETWATCH_RULES", "[{ name = \"r\", connections = 3 }]")
        .env("PATH", "/bin");
    let config = setup.config();
    assert_eq!(config.interfaces, ["eth0", "eth1"]);
    assert!(!config.protect.own);
    assert_eq!(config.protect.extra[0].to_string(), "10.0.0.0/8");
    assert_eq!(config.log.connections_per_second, 1_000_000);
    assert_eq!(
        (config.rules.len(), config.rules_from().as_str()),
        (1, "PACKETWATCH_RULES")
    );
    assert_eq!(
        config.notes(),
        ["PACKETWATCH_PROTECT__EXTRA: protect.extra: host bits cleared, read as 10.0.0.0/8"]
    );
}

#[test]
fn no_rules_is_not_the_same_as_no_word_on_rules() {
    let setup = Setup::new().file("rules = []\n");
    let config = setup.config();
    assert!(config.rules.is_empty());
    assert_eq!(setup.here(&config.rules_from()), "packetwatch.toml");
    let setup = Setup::new().file("[[rules]]\nname = \"scan\"\ndistinct_ports = 3\n");
    assert_eq!(setup.config().rules.len(), 1);
}

#[test]
fn mistakes_in_the_file_are_told_together_with_their_places() {
    let setup = Setup::new().file(
        "\
interfaces = [\"eth0\", \"a/b\", \"eth0\"]
mod = \"observe\"
xdp_mode = 3
state_dir = \"state\"
listen = \"off\"
log = \"json\"
[api]
listen = \"localhost:7300\"
lisen = \"off\"
[apy]
listen = \"off\"
[protect]
self = \"yes\"
extra = [\"10.0.0.0/8\", \"10.0.0.0/33\", \"host.example\", \"::/0\"]
[capacity]
lists = 0
bans = 16777217
callers = \"many\"
[capture]
enabled = true
max_age = \"7\"
[fleet]
enabled = true
url = \"ftp://x\"
[[rules]]
name = \"scan\"
distinct_ports = 65
",
    );
    let expected = "\
packetwatch.toml:1:23: interfaces: \"a/b\" cannot be an interface: write 1 to 15 bytes as `ip link` shows them, without / : or space
packetwatch.toml:2:1: unknown key \"mod\": the nearest known key is \"mode\"
packetwatch.toml:3:12: xdp_mode: 3 is not one of \"auto\", \"native\", \"generic\"
packetwatch.toml:4:13: state_dir: \"state\" is not an absolute path: write it from / on, without ..
packetwatch.toml:5:1: unknown key \"listen\": the nearest known key is \"api.listen\"
packetwatch.toml:6:7: \"log\" is a section: write it as [log]
packetwatch.toml:8:10: api.listen: \"localhost:7300\" is no address with a port: write it like 127.0.0.1:7300 or [::1]:7300, or \"off\"
packetwatch.toml:9:1: unknown key \"api.lisen\": the nearest known key is \"api.listen\"
packetwatch.toml:10:2: unknown key \"apy\": the nearest known key is \"api\"
packetwatch.toml:13:8: protect.self: \"yes\" is neither true nor false
packetwatch.toml:14:24: protect.extra: \"10.0.0.0/33\" has the length \"33\": IPv4 lengths are whole numbers from 0 to 32
packetwatch.toml:14:39: protect.extra: \"host.example\" is a name: write the addresses it stands for, a filter sees no names
packetwatch.toml:14:55: protect.extra: ::/0 is everybody, and nobody is banned then: write longer ones, or mode = \"observe\"
packetwatch.toml:16:9: capacity.lists: 0 is not a whole number from 1 to 16777216
packetwatch.toml:17:8: capacity.bans: 16777217 is not a whole number from 1 to 16777216
packetwatch.toml:18:11: capacity.callers: \"many\" is not a whole number from 64 to 16777216
packetwatch.toml:20:11: capture.enabled: this build does not have it: write false, or install one that has
packetwatch.toml:21:11: capture.max_age: \"7\" is no length of time (time unit needed, for example 7sec or 7ms): write it like \"60s\", \"10m\" or \"24h\"
packetwatch.toml:23:11: fleet.enabled: this build does not have it: write false, or install one that has
packetwatch.toml:24:7: fleet.url: \"ftp://x\" is no URL of a fleet: begin with https://, nats://, tls://
packetwatch.toml:27:18: rules: rule 1 \"scan\": distinct_ports: 65 is more than 64, beyond which ports are not told apart: use connections";
    assert_eq!(setup.refusal(), expected);
}

#[test]
fn mistakes_in_variables_and_flags_are_told_by_their_names() {
    let setup = Setup::new()
        .env("PACKETWATCH_API__LISTN", "off")
        .env("PACKETWATCH_RETENTION", "7d")
        .env("PACKETWATCH_CAPACITY__BANS", "lots")
        .env("PACKETWATCH_API__SOCKET", "api.sock")
        .env("PACKETWATCH_PROTECT__EXTRA", "10.0.0.1,10.0.0.256")
        .flags(|flags| {
            flags.mode = Some("drop".into());
            flags.interfaces = vec!["eth0".into(), "eth0".into()];
            flags.state_dir = Some(String::new());
        });
    let expected = "\
PACKETWATCH_API__LISTN: unknown variable: the nearest known one is PACKETWATCH_API__LISTEN
PACKETWATCH_API__SOCKET: \"api.sock\" is not an absolute path: write it from / on, without .., or \"off\"
PACKETWATCH_CAPACITY__BANS: \"lots\" is not a whole number from 1 to 16777216
PACKETWATCH_PROTECT__EXTRA: \"10.0.0.256\" is neither an address nor a prefix: write it like 198.51.100.0/24 or 2001:db8::/32
PACKETWATCH_RETENTION: unknown variable: unset it, or name a key that `packetwatch config template` shows, as in PACKETWATCH_API__LISTEN for api.listen
--interface: \"eth0\" is listed twice: keep one
--mode: \"drop\" is not one of \"enforce\", \"observe\"
--state-dir: \"\" is not an absolute path: write it from / on, without ..";
    assert_eq!(setup.refusal(), expected);
}

#[test]
fn a_value_is_checked_even_where_another_replaces_it() {
    let setup = Setup::new()
        .file("mode = \"drop\"\n")
        .flags(|flags| flags.mode = Some("observe".into()));
    assert_eq!(
        setup.refusal(),
        "packetwatch.toml:1:8: mode: \"drop\" is not one of \"enforce\", \"observe\""
    );
}

#[test]
fn what_is_no_toml_has_its_place() {
    let setup = Setup::new().file("mode = \"observe\"\n[api\nlisten = \"off\"\n");
    assert_eq!(
        setup.refusal(),
        "packetwatch.toml:2:5: unclosed table, expected `]`"
    );
    let setup = Setup::new().file("mode = \"observe\"\nmode = \"enforce\"\n");
    assert_eq!(
        setup.refusal(),
        "packetwatch.toml:2:1: duplicate key mode: keep one of them"
    );
}

#[test]
fn a_named_file_must_be_there_and_be_text() {
    let setup = Setup::new();
    let missing = setup.directory.path().join("gone.toml");
    let setup = setup.flags(|flags| flags.config = Some(missing.clone()));
    assert_eq!(
        setup.refusal(),
        "cannot read the configuration gone.toml: No such file or directory (os error 2); \
         name another with --config, or write one with `packetwatch config template`"
    );
    fs::write(&missing, [0xff]).unwrap();
    assert!(
        setup
            .refusal()
            .contains("valid UTF-8; make it a readable file in UTF-8")
    );
    fs::write(&missing, "#".repeat(1 << 20)).unwrap();
    assert_eq!(setup.config().mode, Mode::Enforce);
    fs::write(&missing, "#".repeat((1 << 20) + 1)).unwrap();
    assert!(
        setup
            .refusal()
            .contains("gone.toml: it is longer than 1 MiB; make it")
    );
}

#[test]
fn a_variable_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let mut setup = Setup::new();
    let value = OsString::from_vec(vec![0xff]);
    setup.sources.env.push(("PACKETWATCH_MODE".into(), value));
    assert_eq!(
        setup.refusal(),
        "PACKETWATCH_MODE: the value is not UTF-8: write it in UTF-8"
    );
}

#[test]
fn bounds_hold_at_the_bound() {
    let socket = |length: usize| format!("[api]\nsocket = \"/{}\"\n", "s".repeat(length - 1));
    let names = |n: usize| {
        format!(
            "interfaces = {:?}\n",
            (0..n).map(|i| format!("eth{i}")).collect::<Vec<_>>()
        )
    };
    let extra = |n: usize| format!("[protect]\nextra = {:?}\n", vec!["10.0.0.1"; n]);
    let number = |key: &str, n: u64| {
        let (section, leaf) = key.split_once('.').unwrap();
        format!("[{section}]\n{leaf} = {n}\n")
    };
    let pairs = [
        (socket(107), socket(108)),
        (names(16), names(17)),
        (extra(1024), extra(1025)),
        (
            "interfaces = [\"abcdefghijklmno\"]".into(),
            "interfaces = [\"abcdefghijklmnop\"]".into(),
        ),
        (number("capacity.lists", 1), number("capacity.lists", 0)),
        (
            number("capacity.callers", 64),
            number("capacity.callers", 63),
        ),
        (
            number("capacity.callers", 1 << 24),
            number("capacity.callers", (1 << 24) + 1),
        ),
        (
            number("log.connections_per_second", 0),
            "[log]\nconnections_per_second = -1".into(),
        ),
        (
            number("log.connections_per_second", 1_000_000),
            number("log.connections_per_second", 1_000_001),
        ),
        (number("capture.snaplen", 64), number("capture.snaplen", 63)),
        (
            number("capture.max_bytes", 1 << 50),
            number("capture.max_bytes", (1 << 50) + 1),
        ),
    ];
    for (good, bad) in pairs {
        Setup::new().file(&good).config();
        assert!(Setup::new().file(&bad).load().is_err(), "{bad}");
    }
}

#[test]
fn the_template_says_the_defaults() {
    let stated = Setup::new().file(&template()).config();
    assert_eq!(stated, Config::default());
    // With the # off every setting, each is stated and still the default.
    let uncommented: String = template()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let setup = Setup::new().file(&uncommented);
    let stated = setup.config();
    assert_eq!(settings(&stated), settings(&Config::default()));
    for setting in stated.settings() {
        assert!(
            setup
                .here(&setting.origin.to_string())
                .starts_with("packetwatch.toml:"),
            "{}",
            setting.key
        );
    }
    assert!(template().contains("\n[api]\n# TCP address and port"));
}

#[test]
fn what_is_shown_reads_back() {
    let setup = Setup::new().file(
        "interfaces = [\"eth0\"]\nmode = \"observe\"\n[api]\nsocket = \"off\"\n[protect]\nextra = [\"::1\"]\n",
    );
    let config = setup.config();
    let again = Setup::new().file(&config.to_toml()).config();
    assert_eq!(settings(&again), settings(&config));
    let extra = config
        .settings()
        .find(|setting| setting.key == "protect.extra")
        .unwrap();
    assert_eq!(extra.value.to_string(), "[\"::1/128\"]");
    assert_eq!(again.capture.max_age, Duration::from_secs(7 * 86_400));
}

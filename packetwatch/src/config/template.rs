//! The commented file that says every default.

use super::{Config, keys::KEYS};

/// A file that states nothing: every key is a comment with its default.
///
/// Lines that begin with `# ` explain; to set a key, take the `#` off its line.
pub fn template() -> String {
    let defaults = Config::default();
    let mut text = "# Packetwatch. Every key below is its default; take the # off to change it.\n\
                    # A flag goes before the environment (PACKETWATCH_API__LISTEN), that before this file.\n"
        .to_owned();
    let mut section = "";
    for key in KEYS {
        if key.section().is_empty() {
            text.push('\n');
        } else if key.section() != section {
            section = key.section();
            text.push_str(&format!("\n[{section}]\n"));
        }
        let setting = if key.path == "rules" {
            defaults.rules.to_toml()
        } else {
            let leaf = key.path.rsplit('.').next().unwrap_or_default();
            format!("{leaf} = {}\n", (key.show)(&defaults))
        };
        key.doc
            .lines()
            .for_each(|line| text.push_str(&format!("# {line}\n")));
        for line in setting.lines() {
            text.push_str(if line.is_empty() { "" } else { "#" });
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

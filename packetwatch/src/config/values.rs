//! Reading the values of keys.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeArray, DeValue},
};

use super::sections::Word;
use crate::{
    document::{Fault, Value},
    prefix::{self, Parsed},
    rules::duration,
};

/// A value, or everything wrong with it.
pub(super) type Read<T> = Result<T, Vec<Fault>>;

/// `IFNAMSIZ` is 16, its terminating zero included.
const INTERFACE_NAME: RangeInclusive<usize> = 1..=15;
/// Rows of counters in the XDP program.
const MAX_INTERFACES: usize = packetwatch_abi::MAX_INTERFACES;
const MAX_PREFIXES: usize = 1024;
/// `sun_path` is 108, its terminating zero included.
const MAX_SOCKET_PATH: usize = 107;

/// A value that stands in no file.
pub(super) fn unplaced(value: DeValue<'_>) -> Value<'_> {
    Spanned::new(0..0, value)
}

pub(super) fn list<'t>(items: impl Iterator<Item = &'t str>) -> DeValue<'t> {
    let mut array = DeArray::new();
    items.for_each(|item| array.push(unplaced(DeValue::String(item.into()))));
    DeValue::Array(array)
}

fn fail<T>(value: &Value<'_>, message: impl Into<String>) -> Read<T> {
    Err(vec![Fault::new(value.span(), message)])
}

fn described(value: &Value<'_>) -> String {
    match value.get_ref() {
        DeValue::String(text) => format!("{text:?}"),
        // The parser takes more for a number than digits.
        DeValue::Integer(number) => number.to_string().escape_debug().to_string(),
        other => format!("this {}", other.type_str()),
    }
}

pub(super) fn text<'v>(value: &'v Value<'_>) -> Read<&'v str> {
    match value.get_ref().as_str() {
        Some(text) => Ok(text),
        None => fail(
            value,
            format!("{} is not a text: write it in quotes", described(value)),
        ),
    }
}

pub(super) fn word<T: Word>(value: &Value<'_>) -> Read<T> {
    let known = text(value)
        .ok()
        .and_then(|text| T::WORDS.iter().find(|(word, _)| *word == text));
    if let Some((_, meaning)) = known {
        return Ok(*meaning);
    }
    let words: Vec<String> = T::WORDS
        .iter()
        .map(|(word, _)| format!("{word:?}"))
        .collect();
    fail(
        value,
        format!("{} is not one of {}", described(value), words.join(", ")),
    )
}

pub(super) fn switch(value: &Value<'_>) -> Read<bool> {
    match value.get_ref().as_bool() {
        Some(on) => Ok(on),
        None => fail(
            value,
            format!("{} is neither true nor false", described(value)),
        ),
    }
}

/// `enabled` of a section this build knows but cannot serve.
pub(super) fn not_built(value: &Value<'_>) -> Read<bool> {
    match switch(value)? {
        false => Ok(false),
        true => fail(
            value,
            "this build does not have it: write false, or install one that has",
        ),
    }
}

pub(super) fn number<T: TryFrom<u64>>(value: &Value<'_>, bounds: RangeInclusive<u64>) -> Read<T> {
    let digits = value.get_ref().as_integer();
    let number = digits.and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok());
    match number.filter(|n| bounds.contains(n)).map(T::try_from) {
        Some(Ok(number)) => Ok(number),
        _ => {
            let (least, most) = bounds.into_inner();
            fail(
                value,
                format!(
                    "{} is not a whole number from {least} to {most}",
                    described(value)
                ),
            )
        }
    }
}

pub(super) fn time(value: &Value<'_>, bounds: RangeInclusive<Duration>) -> Read<Duration> {
    let time = duration::parse(text(value)?).or_else(|error| fail(value, error))?;
    if bounds.contains(&time) {
        return Ok(time);
    }
    let (least, most) = (
        duration::format(*bounds.start()),
        duration::format(*bounds.end()),
    );
    fail(
        value,
        format!("{} is outside {least} to {most}", described(value)),
    )
}

pub(super) fn path(value: &Value<'_>) -> Read<PathBuf> {
    let path = Path::new(text(value)?);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if path.is_absolute() && !climbs && !text(value)?.contains('\0') {
        return Ok(path.to_owned());
    }
    fail(
        value,
        format!(
            "{} is not an absolute path: write it from / on, without ..",
            described(value)
        ),
    )
}

pub(super) fn optional_path(value: &Value<'_>) -> Read<Option<PathBuf>> {
    if text(value)?.is_empty() {
        Ok(None)
    } else {
        path(value).map(Some)
    }
}

pub(super) fn socket_path(value: &Value<'_>) -> Read<Option<PathBuf>> {
    if text(value)? == "off" {
        return Ok(None);
    }
    let path = path(value).map_err(|mut faults| {
        faults
            .iter_mut()
            .for_each(|fault| fault.message.push_str(", or \"off\""));
        faults
    })?;
    match path.as_os_str().len() {
        0..=MAX_SOCKET_PATH => Ok(Some(path)),
        length => fail(
            value,
            format!(
                "a socket path of {length} bytes is longer than {MAX_SOCKET_PATH}: choose a shorter one"
            ),
        ),
    }
}

pub(super) fn listen(value: &Value<'_>) -> Read<Option<SocketAddr>> {
    match text(value)? {
        "off" => Ok(None),
        address => address.parse().map(Some).or_else(|_| {
            let form = "write it like 127.0.0.1:7300 or [::1]:7300, or \"off\"";
            fail(
                value,
                format!("{address:?} is no address with a port: {form}"),
            )
        }),
    }
}

/// Reads each item; every bad one is told.
pub(super) fn each<T>(
    value: &Value<'_>,
    most: usize,
    read: impl Fn(&Value<'_>) -> Read<T>,
) -> Read<Vec<T>> {
    let Some(items) = value.get_ref().as_array() else {
        return fail(
            value,
            format!("{} is not a list: write it in [ ]", described(value)),
        );
    };
    if items.len() > most {
        return fail(value, format!("{} items are more than {most}", items.len()));
    }
    let (mut kept, mut faults) = (Vec::new(), Vec::new());
    for item in items.iter() {
        match read(item) {
            Ok(item) => kept.push(item),
            Err(found) => faults.extend(found),
        }
    }
    if faults.is_empty() {
        Ok(kept)
    } else {
        Err(faults)
    }
}

pub(super) fn prefixes(value: &Value<'_>) -> Read<Vec<Parsed>> {
    each(value, MAX_PREFIXES, prefix)
}

/// Prefixes of which nothing is dropped, so not everybody's.
pub(super) fn protected(value: &Value<'_>) -> Read<Vec<Parsed>> {
    each(value, MAX_PREFIXES, |item| {
        let parsed = prefix(item)?;
        if parsed.prefix.prefix_len() == 0 {
            let remedy = "write longer ones, or mode = \"observe\"";
            return fail(
                item,
                format!("{parsed} is everybody, and nobody is banned then: {remedy}"),
            );
        }
        Ok(parsed)
    })
}

fn prefix(item: &Value<'_>) -> Read<Parsed> {
    prefix::parse(text(item)?).or_else(|error| fail(item, error.to_string()))
}

pub(super) fn paths(value: &Value<'_>) -> Read<Vec<PathBuf>> {
    each(value, MAX_PREFIXES, path)
}

pub(super) fn interfaces(value: &Value<'_>) -> Read<Vec<String>> {
    let names = each(value, MAX_INTERFACES, |item| {
        // What the kernel's dev_valid_name takes.
        let name = text(item)?;
        let bad = |c: char| c == '/' || c == ':' || c == '\0' || c.is_ascii_whitespace();
        if !INTERFACE_NAME.contains(&name.len()) || name.contains(bad) || matches!(name, "." | "..")
        {
            let form = "write 1 to 15 bytes as `ip link` shows them, without / : or space";
            return fail(item, format!("{name:?} cannot be an interface: {form}"));
        }
        Ok(name.to_owned())
    })?;
    let twice = |at: &usize| names[..*at].contains(&names[*at]);
    match (1..names.len()).find(twice) {
        None => Ok(names),
        Some(at) => fail(value, format!("{:?} is listed twice: keep one", names[at])),
    }
}

/// A user's name, as useradd(8) takes them.
pub(super) fn user(value: &Value<'_>) -> Read<String> {
    let name = text(value)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if (1..=32).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with('-') {
        return Ok(name.to_owned());
    }
    fail(
        value,
        format!("{name:?} is no user's name: write 1 to 32 letters, digits, `_`, `-` and `.`"),
    )
}

pub(super) fn environment(value: &Value<'_>) -> Read<String> {
    let name = text(value)?;
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=32).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(name.to_owned());
    }
    fail(
        value,
        format!("{name:?} is no name: write 1 to 32 of a-z, 0-9 and -"),
    )
}

pub(super) fn url(value: &Value<'_>) -> Read<String> {
    let url = text(value)?;
    let schemes = ["https://", "nats://", "tls://"];
    if url.is_empty()
        || schemes
            .iter()
            .any(|scheme| url.len() > scheme.len() && url.starts_with(scheme))
    {
        return Ok(url.to_owned());
    }
    fail(
        value,
        format!(
            "{url:?} is no URL of a fleet: begin with {}",
            schemes.join(", ")
        ),
    )
}

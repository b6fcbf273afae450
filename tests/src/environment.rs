//! Numbers that the caller of a test may set by a variable of the environment.

use std::env;

/// The variable's number, if it is set.
///
/// # Panics
/// It is set to something else.
pub fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is no number: write digits")))
}

//! What commands print: results to standard output, the rest to standard error.

use std::io::Write as _;

use anyhow::Context as _;

/// Prints a result and a line's end. The error is one for the caller to end with, as a result that nobody got is no
/// success: a closed pipe, a full disk.
pub fn print(text: impl std::fmt::Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output could not be written")
}

/// Prints a line for a person to standard error. Where that cannot be written there is no place left to say so.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

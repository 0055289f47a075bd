//! The output of commands: results to standard output, the rest to standard error.

use std::io::Write as _;

use anyhow::Context as _;
use comfy_table::{ContentArrangement, Table, TableComponent, presets};

/// Prints a result and a newline. The caller ends with the error, as a result that nobody received is no success: a
/// closed pipe, a full disk.
pub fn print(text: impl std::fmt::Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output could not be written")
}

/// Prints a line for a person to standard error. If that fails, there is no other place to report it.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// An empty table as wide as the terminal, without lines between its rows: there may be many.
pub fn table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    for part in [
        TableComponent::HorizontalLines,
        TableComponent::MiddleIntersections,
        TableComponent::LeftBorderIntersections,
        TableComponent::RightBorderIntersections,
    ] {
        table.remove_style(part);
    }
    table
}

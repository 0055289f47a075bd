//! What commands print: results to standard output, the rest to standard error.

use std::io::Write as _;

use anyhow::Context as _;
use comfy_table::{ContentArrangement, Table, TableComponent, presets};

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

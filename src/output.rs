//! The output of commands: results to standard output, the rest to standard error.

use std::io::{ErrorKind, Write as _};

use comfy_table::{ContentArrangement, Table, TableComponent, presets};

/// Prints a result and a newline. The caller ends with the error, as a result that nobody received is no success: a
/// closed pipe, a full disk.
pub fn print(text: impl std::fmt::Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| anyhow::Error::msg(not_written(&error)))
}

/// Says that standard output could not be written.
pub fn not_written(error: &std::io::Error) -> String {
    let why = match error.kind() {
        ErrorKind::BrokenPipe => "its reader ended before everything was read".to_owned(),
        _ => error.to_string(),
    };
    format!("standard output could not be written: {why}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_nobody_reads_is_told_in_plain_words_and_another_failure_in_the_system_s() {
        let closed = not_written(&ErrorKind::BrokenPipe.into());
        assert_eq!(
            closed,
            "standard output could not be written: its reader ended before everything was read"
        );
        let full = not_written(&std::io::Error::from_raw_os_error(28));
        assert!(full.contains("No space left on device"), "{full}");
    }
}

//! The report as tables for a terminal. No I/O.

use std::fmt::Write as _;

use comfy_table::Table;

use super::sheets::{Sheet, periods, sheets};
use crate::output;
use crate::store::analytics::CallReport;

/// The whole report as text.
pub fn text(report: &CallReport) -> String {
    let mut text = format!("From {} to {}\n", report.since, report.until);
    if report.periods.is_empty() {
        text.push_str("\nNothing happened in this time: --since asks for a longer one.");
        return text;
    }
    for sheet in std::iter::once(periods(report)).chain(sheets(report)) {
        let _ = writeln!(text, "\n{}", sheet.title);
        if sheet.rows.is_empty() {
            text.push_str("None.\n");
            continue;
        }
        let _ = writeln!(text, "{}", table(&sheet));
        if let Some(note) = &sheet.note {
            let _ = writeln!(text, "{note}");
        }
    }
    text.trim_end().to_owned()
}

fn table(sheet: &Sheet) -> Table {
    let numbers: Vec<usize> = (1..sheet.header.len()).collect();
    output::table(&sheet.header, &numbers, &sheet.rows)
}

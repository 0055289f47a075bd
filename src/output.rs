//! The output of commands: results to standard output, the rest to standard error.

use std::io::{ErrorKind, Write as _};

use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, Table, TableComponent, Width, presets,
};

/// Width of what is printed where there is no terminal.
pub const WIDTH: usize = 100;
/// Spaces around the content of a cell; one more separates it from the next.
const PADDING: usize = 2;
/// A longer word may be broken.
const MAX_WORD: usize = 40;

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

/// A table without boxes or lines between its rows, as there may be many. It fits the terminal, or [`WIDTH`] columns
/// where there is none. Columns whose index is in `numbers` are aligned to the right.
pub fn table<H, R>(header: H, numbers: &[usize], rows: impl IntoIterator<Item = R>) -> Table
where
    H: IntoIterator<Item: ToString>,
    R: IntoIterator<Item: ToString>,
{
    let width = Table::new().width().map_or(WIDTH, usize::from);
    table_within(width, header, numbers, rows)
}

/// Like [`table`], within `width` columns.
pub fn table_within<H, R>(
    width: usize,
    header: H,
    numbers: &[usize],
    rows: impl IntoIterator<Item = R>,
) -> Table
where
    H: IntoIterator<Item: ToString>,
    R: IntoIterator<Item: ToString>,
{
    let texts = |row: R| row.into_iter().map(|cell| cell.to_string()).collect::<Vec<String>>();
    let header: Vec<String> = header.into_iter().map(|cell| cell.to_string()).collect();
    let rows: Vec<Vec<String>> = rows.into_iter().map(texts).collect();
    let cells = |at: usize| rows.iter().chain([&header]).filter_map(move |row| row.get(at));
    let mut columns: Vec<Fitting> = (0..header.len()).map(|at| Fitting::of(cells(at))).collect();
    fit(&mut columns, width.saturating_sub((PADDING + 1) * header.len()));
    let widths: Vec<usize> = columns.iter().map(|column| column.width).collect();
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
    table.set_width(u16::try_from(width).unwrap_or(u16::MAX)).set_header(header).add_rows(rows);
    for (at, (column, width)) in table.column_iter_mut().zip(widths).enumerate() {
        let width = u16::try_from(width + PADDING).unwrap_or(u16::MAX);
        column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width)));
        if numbers.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A column that is fitted into a table.
struct Fitting {
    /// The lines of the cells.
    lines: Vec<String>,
    /// The width that breaks no line.
    whole: usize,
    width: usize,
}

impl Fitting {
    /// A column that is just wide enough to break no word, but for very long ones.
    fn of<'a>(cells: impl Iterator<Item = &'a String>) -> Fitting {
        let lines: Vec<String> = cells.flat_map(|cell| cell.lines().map(str::to_owned)).collect();
        let words = lines.iter().flat_map(|line| line.split(' ')).map(|word| word.chars().count());
        let width = words.max().unwrap_or(0).clamp(1, MAX_WORD);
        let whole = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0).max(1);
        Fitting { lines, whole, width }
    }

    /// The number of lines of all cells at a width.
    fn height(&self, width: usize) -> usize {
        self.lines.iter().map(|line| broken(line, width)).sum()
    }
}

/// The number of lines that a line is broken into.
fn broken(line: &str, width: usize) -> usize {
    let (mut lines, mut used) = (1, 0);
    for word in line.split(' ').map(|word| word.chars().count()) {
        if used > 0 && used + 1 + word <= width {
            used += 1 + word;
            continue;
        }
        lines += usize::from(used > 0) + word.saturating_sub(1) / width.max(1);
        used = word;
    }
    lines
}

/// Gives the space that is left to the column with the most lines, as long as that makes it shorter. Words are broken
/// only where not all of the longest ones fit beside each other.
fn fit(columns: &mut [Fitting], available: usize) {
    let used = |columns: &[Fitting]| columns.iter().map(|column| column.width).sum::<usize>();
    while used(columns) > available
        && let Some(widest) = columns.iter_mut().max_by_key(|column| column.width)
        && widest.width > 1
    {
        widest.width -= 1;
    }
    let mut spare = available.saturating_sub(used(columns));
    let mut open: Vec<&mut Fitting> = columns.iter_mut().collect();
    loop {
        open.sort_by_key(|column| column.height(column.width));
        let Some(column) = open.pop() else { return };
        let (width, height) = (column.width, column.height(column.width));
        let most = column.whole.min(width + spare);
        if let Some(wider) = (width + 1..=most).find(|wider| column.height(*wider) < height) {
            spare -= wider - width;
            column.width = wider;
            open.push(column);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(width: usize, rows: &[[&str; 3]]) -> Vec<String> {
        let table = table_within(width, ["topic", "message", "count"], &[2], rows.iter().copied());
        table.to_string().lines().map(str::to_owned).collect()
    }

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

    #[test]
    fn a_table_has_no_boxes_and_is_as_wide_as_its_contents() {
        let lines = lines(100, &[["clone.ready", "no voice_id", "3"], ["call.lifecycle", "x", "17"]]);
        assert_eq!(lines[1].trim_end(), " topic            message       count");
        assert_eq!(lines[3].trim_end(), " clone.ready      no voice_id       3");
        assert_eq!(lines[4].trim_end(), " call.lifecycle   x                17");
        assert!(!lines.concat().contains(['│', '┌', '┼']), "{lines:?}");
    }

    #[test]
    fn a_table_that_is_too_wide_is_broken_at_spaces_only() {
        let message = "the value of clone_duration_ms is not a whole number from 0 to 2147483647 ".repeat(3);
        let rows = [["caller.voice_mapping", message.trim_end(), "1000000"]];
        let lines = lines(60, &rows);
        assert!(lines.iter().all(|line| line.chars().count() <= 60), "{lines:?}");
        let text = lines.join(" ");
        for word in message.split(' ').chain(["caller.voice_mapping", "1000000"]) {
            assert!(text.contains(word), "{word} is broken in {lines:?}");
        }
    }

    #[test]
    fn a_table_of_words_that_are_too_long_together_is_no_wider() {
        let lines = lines(40, &[["prefix.caller.voice_mapping", "the value is no JSON", "1000000"]]);
        assert!(lines.iter().all(|line| line.chars().count() <= 40), "{lines:?}");
    }

    #[test]
    fn a_word_that_fits_nowhere_is_broken() {
        let lines = lines(100, &[["clone.ready", &"x".repeat(300), "1"]]);
        assert!(lines.iter().all(|line| line.chars().count() <= 100), "{lines:?}");
        assert_eq!(lines.concat().matches('x').count(), 300);
    }
}

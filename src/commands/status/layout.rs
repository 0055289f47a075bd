//! The status document as text of at most 100 columns: verdict, problems, then tables.

use crate::output::{self, WIDTH};
use crate::status::tables::{self, backlogs};
use crate::status::{Document, Problem};

/// Maximum number of partitions shown; `--json` has all.
const MAX_PARTITIONS: usize = 40;

/// The whole document.
pub(super) fn text(document: &Document) -> String {
    let mut parts =
        vec![format!("{}\n{}", document.verdict.sentence(), wrapped(&tables::facts(document), 0))];
    if !document.problems.is_empty() {
        parts.push(document.problems.iter().map(problem).collect::<Vec<_>>().join("\n"));
    }
    let shown = [
        tables::topics(document),
        tables::partitions(document, false, MAX_PARTITIONS),
        tables::members(document),
        tables::instances(document),
        tables::dead_letters(document),
    ];
    parts.extend(shown.into_iter().filter(|table| !table.rows.is_empty()).map(table));
    let lines = backlogs(document).into_iter().map(|(name, text)| wrapped(&format!("{name}: {text}"), 0));
    parts.push(lines.collect::<Vec<_>>().join("\n"));
    parts.join("\n\n")
}

fn problem(problem: &Problem) -> String {
    let Problem { severity, code, what, since, fix } = problem;
    let since = since.as_ref().map_or_else(String::new, |since| format!(", since {since}"));
    format!(
        "{:8}  {}{since}\n{}\n{}",
        severity.name(),
        code.name(),
        wrapped(what, 10),
        wrapped(&format!("-> {fix}"), 10)
    )
}

/// Wraps text at the width and indents each line. A longer word gets a line of its own.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.iter().map(|line| format!("{:indent$}{line}", "")).collect::<Vec<_>>().join("\n")
}

fn table(shown: tables::StatusTable) -> String {
    let table = output::table_within(WIDTH, shown.header, shown.numbers, shown.rows);
    match shown.more {
        0 => table.to_string(),
        more => format!("{table}\n{more} more partitions: see --json"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sentences_are_wrapped_within_the_width_and_long_words_stay_whole() {
        let text = wrapped(&"word ".repeat(60), 10);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH && line.starts_with("          word")));
        let long = "x".repeat(150);
        assert_eq!(wrapped(&format!("a {long} b"), 2), format!("  a\n  {long}\n  b"));
    }
}

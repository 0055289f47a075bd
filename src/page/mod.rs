//! The page at `/`: the document of `status`, rendered on the server, with three plots of the last 15 minutes. `page.js`
//! refreshes it; it is readable without JavaScript. It has no login, so it changes nothing and shows no record.

pub mod history;
mod plot;

use askama::Template;

use self::history::History;
use self::plot::HistoryPlot;
use crate::shared::Computed;
use crate::status::judge::ago;
use crate::status::tables::{self, StatusTable};
use crate::status::{Document, Verdict};

/// The style sheet.
pub const STYLE: &str = include_str!("../../templates/page.css");

/// The script that refreshes the page.
pub const SCRIPT: &str = include_str!("../../templates/page.js");

/// Maximum number of partitions shown; `/status.json` has all.
const MAX_PARTITIONS: usize = 200;

/// Age from which on the document is marked as old.
const OLD_SECONDS: f64 = 30.0;

#[derive(Template)]
#[template(path = "page.html")]
struct StatusPage<'d> {
    document: Option<&'d Document>,
    old: Option<String>,
    plots: [HistoryPlot; 3],
    tables: Vec<PageTable>,
    backlogs: Vec<(&'static str, String)>,
}

/// A table with the CSS classes of its cells.
struct PageTable {
    id: String,
    name: &'static str,
    header: Vec<(&'static str, &'static str)>,
    rows: Vec<Vec<(&'static str, String)>>,
    more: usize,
}

impl From<StatusTable> for PageTable {
    fn from(table: StatusTable) -> PageTable {
        let class = |index: usize| if table.numbers.contains(&index) { "number" } else { "text" };
        let row = |cells: Vec<String>| {
            cells.into_iter().enumerate().map(|(index, cell)| (class(index), cell)).collect()
        };
        PageTable {
            id: table.name.to_lowercase().replace(' ', "-"),
            name: table.name,
            header: table.header.iter().enumerate().map(|(index, head)| (class(index), *head)).collect(),
            rows: table.rows.into_iter().map(row).collect(),
            more: table.more,
        }
    }
}

/// Renders the page. `made` is `None` until the servers have answered for the first time.
pub fn render(made: Option<&Computed<Document>>, history: &History) -> Result<String, askama::Error> {
    let document = made.map(|made| made.result.as_ref());
    let old = made.map(|made| made.at.elapsed().as_secs_f64()).filter(|seconds| *seconds > OLD_SECONDS);
    let tables = document.map(|document| {
        [
            tables::topics(document),
            tables::partitions(document, true, MAX_PARTITIONS),
            tables::dead_letters(document),
            tables::members(document),
            tables::instances(document),
        ]
    });
    let tables = tables.into_iter().flatten().filter(|table| !table.rows.is_empty());
    StatusPage {
        document,
        old: old.map(ago),
        plots: plot::plots(&history.samples()),
        tables: tables.map(PageTable::from).collect(),
        backlogs: document.map(tables::backlogs).unwrap_or_default(),
    }
    .render()
}

/// The CSS class for the colour of a verdict.
fn colour(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "good",
        Verdict::CatchingUp => "info",
        Verdict::Degraded => "warning",
        Verdict::Stopped | Verdict::Down => "critical",
    }
}

/// Whether the fix is only a command, which can be pasted.
fn is_command(fix: &str) -> bool {
    let begins = ["voiceclone-events ", "kafka-"].iter().any(|program| fix.starts_with(program));
    begins && ![", ", "; ", ": ", " names "].iter().any(|part| fix.contains(part))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;

//! The page at `/`: what `status` says, made on the server, with three plots of the last 15 minutes. `page.js` brings it up
//! to date; it is read without JavaScript as well. It has no login, so it changes nothing and shows no record.

pub mod history;
mod plot;

use askama::Template;

use self::history::History;
use self::plot::Plot;
use crate::shared::Computed;
use crate::status::judge::ago;
use crate::status::tables::{self, Table};
use crate::status::{Document, Verdict};

/// The style sheet.
pub const STYLE: &str = include_str!("../../templates/page.css");

/// What brings the page up to date.
pub const SCRIPT: &str = include_str!("../../templates/page.js");

/// Partitions that are shown; `/status.json` has all.
const SHOWN: usize = 200;

/// A document that is older is said to be so.
const OLD_SECONDS: f64 = 30.0;

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'d> {
    document: Option<&'d Document>,
    old: Option<String>,
    plots: [Plot; 3],
    tables: Vec<Shown>,
    backlogs: Vec<(&'static str, String)>,
}

/// A table with the classes of its cells.
struct Shown {
    id: String,
    name: &'static str,
    header: Vec<(&'static str, &'static str)>,
    rows: Vec<Vec<(&'static str, String)>>,
    more: usize,
}

impl From<Table> for Shown {
    fn from(table: Table) -> Shown {
        let class = |index: usize| if table.numbers.contains(&index) { "number" } else { "text" };
        let row = |cells: Vec<String>| {
            cells.into_iter().enumerate().map(|(index, cell)| (class(index), cell)).collect()
        };
        Shown {
            id: table.name.to_lowercase().replace(' ', "-"),
            name: table.name,
            header: table.header.iter().enumerate().map(|(index, head)| (class(index), *head)).collect(),
            rows: table.rows.into_iter().map(row).collect(),
            more: table.more,
        }
    }
}

/// The page. `None`: the servers have not answered since the start.
pub fn render(made: Option<&Computed<Document>>, history: &History) -> Result<String, askama::Error> {
    let document = made.map(|made| made.result.as_ref());
    let old = made.map(|made| made.at.elapsed().as_secs_f64()).filter(|seconds| *seconds > OLD_SECONDS);
    let tables = document.map(|document| {
        [
            tables::topics(document),
            tables::partitions(document, true, SHOWN),
            tables::dead_letters(document),
            tables::members(document),
            tables::instances(document),
        ]
    });
    let tables = tables.into_iter().flatten().filter(|table| !table.rows.is_empty());
    Page {
        document,
        old: old.map(ago),
        plots: plot::plots(&history.samples()),
        tables: tables.map(Shown::from).collect(),
        backlogs: document.map(tables::backlogs).unwrap_or_default(),
    }
    .render()
}

/// The class of a verdict's colour.
fn colour(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "good",
        Verdict::CatchingUp => "info",
        Verdict::Degraded => "warning",
        Verdict::Stopped | Verdict::Down => "critical",
    }
}

/// Whether the remedy is a command and nothing else, to be pasted.
fn is_command(fix: &str) -> bool {
    let begins = ["voiceclone-events ", "kafka-"].iter().any(|program| fix.starts_with(program));
    begins && ![", ", "; ", ": ", " names "].iter().any(|part| fix.contains(part))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;

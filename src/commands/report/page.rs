//! The report as one self-contained HTML file. No I/O.

use anyhow::Context as _;
use askama::Template;

use super::plot::{self, Plot};
use super::sheets::{self, Sheet};
use crate::store::analytics::{CallReport, Period};

#[derive(Template)]
#[template(path = "report.html")]
struct ReportPage<'a> {
    report: &'a CallReport,
    version: &'static str,
    first: String,
    last: String,
    plots: Vec<Plot>,
    sections: Vec<ReportTable>,
    periods: ReportTable,
}

/// A table with the CSS classes of its cells.
struct ReportTable {
    title: String,
    header: Vec<(&'static str, String)>,
    rows: Vec<ReportRow>,
    has_bars: bool,
    note: Option<String>,
}

struct ReportRow {
    cells: Vec<(&'static str, String)>,
    /// Length of the bar in percent.
    bar: String,
}

impl From<Sheet> for ReportTable {
    fn from(sheet: Sheet) -> ReportTable {
        let classed = |cells: Vec<String>| -> Vec<(&'static str, String)> {
            let class = |place: usize| if place == 0 { "text" } else { "number" };
            cells.into_iter().enumerate().map(|(place, cell)| (class(place), cell)).collect()
        };
        let bar =
            |place: usize| sheet.shares.get(place).map_or_else(String::new, |share| format!("{share:.1}"));
        let row = |(place, cells)| ReportRow { cells: classed(cells), bar: bar(place) };
        ReportTable {
            header: classed(sheet.header),
            rows: sheet.rows.into_iter().enumerate().map(row).collect(),
            title: sheet.title,
            has_bars: !sheet.shares.is_empty(),
            note: sheet.note,
        }
    }
}

/// Renders the page.
pub fn page(report: &CallReport) -> anyhow::Result<String> {
    let slots = plot::slots(report);
    let at = |slot: Option<&(String, Period)>| slot.map_or_else(String::new, |(at, _)| at.clone());
    let page = ReportPage {
        report,
        version: env!("CARGO_PKG_VERSION"),
        first: at(slots.first()),
        last: at(slots.last()),
        plots: plot::plots(&slots),
        sections: sheets::sheets(report).into_iter().map(ReportTable::from).collect(),
        periods: sheets::periods(report).into(),
    };
    page.render().context("the page could not be rendered")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::analytics::FailureShare;

    #[test]
    fn what_the_tables_hold_is_text_on_the_page_and_no_markup() {
        let period =
            Period { at: "2026-01-05T09:00:00Z".into(), clones: 2, clones_failed: 1, ..Period::default() };
        let failure = FailureShare {
            error: "<script>alert('x')</script> & \"more\"".into(),
            count: 1,
            latest_at: "2026-01-05T09:00:00Z".into(),
        };
        let report = CallReport {
            step: "hour",
            periods: vec![period],
            failures: vec![failure],
            ..CallReport::default()
        };
        let page = page(&report).unwrap();
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("script&#62;") || page.contains("script&gt;"), "{page}");
        for outside in ["http://", "https://", "src=", "<link", "@import", "url("] {
            assert!(!page.contains(outside), "the page asks for {outside}");
        }
    }

    #[test]
    fn a_page_of_nothing_says_so() {
        let page = page(&CallReport { step: "hour", ..CallReport::default() }).unwrap();
        assert!(page.contains("Nothing happened in this time"), "{page}");
    }
}

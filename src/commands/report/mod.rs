//! `report`: statistics of calls and voices, from the views of schema `analytics`.
//!
//! ```text
//! sheets  -> the contents of the tables
//! text    -> tables for a terminal
//! csv     -> one value per line
//! page    -> one HTML file; plot -> its plots
//! ```

mod csv;
mod page;
mod plot;
mod sheets;
mod text;

use std::path::Path;

use anyhow::Context as _;
use serde_json::json;

use crate::cli::Usage;
use crate::cli::dead_letters::before_now;
use crate::config::Settings;
use crate::event::Time;
use crate::mask;
use crate::output::print;
use crate::store::analytics::{self, CallReport, Funnel};
use crate::store::connect;

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;
/// Maximum length of a report by hours, in seconds: on a terminal, and elsewhere. A longer one is by days.
const HOURS_AS_TEXT: i64 = 3 * DAY;
const HOURS: i64 = 31 * DAY;
/// Maximum number of characters shown of an error.
const ERROR: usize = 100;

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form<'a> {
    /// Tables for a terminal.
    Text,
    /// One JSON object.
    Json,
    /// CSV, one value per line.
    Csv,
    /// An HTML page, written to this file.
    Page(&'a Path),
}

impl Form<'_> {
    /// The format given by the flags.
    pub fn of(html: Option<&Path>, csv: bool, json: bool) -> Form<'_> {
        match html {
            Some(path) => Form::Page(path),
            None if csv => Form::Csv,
            None if json => Form::Json,
            None => Form::Text,
        }
    }
}

/// Reports on the time from `since` (default: a day before `until`) to `until` (default: now).
pub async fn run(
    settings: &Settings,
    since: Option<Time>,
    until: Option<Time>,
    form: Form<'_>,
) -> anyhow::Result<()> {
    let until = until.unwrap_or_else(|| before_now(std::time::Duration::ZERO));
    let since = since.unwrap_or_else(|| Time::from_micros(until.micros() - DAY));
    if since >= until {
        return Err(Usage::new("--since is not before --until: give an earlier time").into());
    }
    let hours = if form == Form::Text { HOURS_AS_TEXT } else { HOURS };
    let step = if until.micros() - since.micros() <= hours { "hour" } else { "day" };
    let mut report = gather(settings, since, until, step).await?;
    for failure in &mut report.failures {
        failure.error = shown(&failure.error);
    }
    match form {
        Form::Text => print(text::text(&report)),
        Form::Json => print(json!(report)),
        Form::Csv => print(csv::csv(&report)),
        Form::Page(path) => {
            let page = page::page(&report)?;
            std::fs::write(path, page).with_context(|| format!("{} could not be written", path.display()))?;
            print(format!("{} is written: open it in a browser.", path.display()))
        }
    }
}

async fn gather(
    settings: &Settings,
    since: Time,
    until: Time,
    step: &'static str,
) -> anyhow::Result<CallReport> {
    let mut connection =
        connect::connect(&settings.database_url).await.context("PostgreSQL cannot be used")?;
    let context = "the views of schema analytics could not be read";
    if let Some(lack) = analytics::lacking(&mut connection).await.context(context)? {
        return Err(lack.into());
    }
    analytics::report(&mut connection, since, until, step).await.context(context)
}

/// An error of the voice API as one short line, without phone numbers.
fn shown(error: &str) -> String {
    let plain: String = error.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let masked = mask::numbers(&plain);
    if masked.chars().count() <= ERROR {
        return masked;
    }
    masked.chars().take(ERROR - 1).chain(['…']).collect()
}

/// The steps of the funnel with their names.
fn steps(funnel: &Funnel) -> [(&'static str, i64); 5] {
    [
        ("greetings that cloned or handed over", funnel.greetings),
        ("with a voice", funnel.with_voice),
        ("handed over to the agent", funnel.handed_over),
        ("agent's call is in the log", funnel.agent_calls),
        ("agent's call completed", funnel.completed),
    ]
}

/// The displayed name of a kind of call.
fn kind(kind: Option<&str>) -> &str {
    kind.unwrap_or("not known")
}

/// A share as `12.5 %`; a dash where the whole is 0.
fn percent(part: i64, whole: i64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

/// A number with `digits` decimals; a dash for `None`.
fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// The start of a period: `2026-01-05 13:00`, or `2026-01-05` for a day.
fn moment(at: &str, step: &str) -> String {
    let length = if step == "day" { 10 } else { 16 };
    at.get(..length).unwrap_or(at).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_short_line_without_phone_numbers_and_control_characters() {
        assert_eq!(shown("no \u{1b}[31mvoice\nfor ٠١٢٣٤٥٦٧٨٩"), "no  [31mvoice for ٠*******٨٩");
        let long = shown(&"x".repeat(1000));
        assert!(long.chars().count() == ERROR && long.ends_with('…'));
    }

    #[test]
    fn shares_and_numbers_are_dashes_where_there_are_none() {
        assert_eq!((percent(1, 8), percent(0, 0)), ("12.5 %".to_owned(), "-".to_owned()));
        assert_eq!((number(Some(2.34), 1), number(None, 1)), ("2.3".to_owned(), "-".to_owned()));
        assert_eq!(moment("2026-01-05T13:00:00Z", "hour"), "2026-01-05 13:00");
        assert_eq!(moment("2026-01-05T00:00:00Z", "day"), "2026-01-05");
    }
}

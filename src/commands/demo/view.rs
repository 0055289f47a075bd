//! The progress of the demo.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{LINE_EVERY, POLL_EVERY};
use crate::output::say;
use crate::store::overview::{Overview, TABLES};

/// A live view on a terminal, else a line at each change.
pub(super) struct ProgressView {
    bar: Option<ProgressBar>,
    reported: Option<Instant>,
    line: String,
}

impl ProgressView {
    pub(super) fn new() -> ProgressView {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(POLL_EVERY);
            bar
        });
        ProgressView { bar, reported: None, line: String::new() }
    }

    pub(super) fn update(&mut self, sent: u64, now: &Overview) {
        match &self.bar {
            Some(bar) => bar.set_message(live_text(sent, now)),
            None if self.reported.is_none_or(|reported| reported.elapsed() >= LINE_EVERY) => {
                self.say(sent, now)
            }
            None => {}
        }
    }

    fn say(&mut self, sent: u64, now: &Overview) {
        let line = progress_line(sent, now);
        if line != self.line {
            say(&line);
            self.line = line;
            self.reported = Some(Instant::now());
        }
    }

    pub(super) fn finish(mut self, sent: u64, now: &Overview) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.say(sent, now);
    }
}

impl Drop for ProgressView {
    /// Removes the bar, so that an error gets a line of its own.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn progress_line(sent: u64, now: &Overview) -> String {
    format!(
        "{sent} records sent, {} consumed, {} rows in {} tables, {} expired, {} dead letters",
        now.consumed,
        now.rows.iter().sum::<i64>(),
        TABLES.len(),
        now.expired,
        now.dead_letters
    )
}

fn live_text(sent: u64, now: &Overview) -> String {
    let consumed = u64::try_from(now.consumed).unwrap_or_default();
    let mut lines = vec![format!("{sent} records sent, {consumed} consumed")];
    lines.extend(TABLES.iter().zip(&now.rows).map(|(table, rows)| format!("  {table:<22} {rows:>8} rows")));
    lines.push(format!("  {:<22} {:>8}, {} to be published", "expired", now.expired, now.outbox));
    lines.push(format!(
        "  {:<22} {:>8}, {} to be published",
        "dead letters", now.dead_letters, now.unpublished
    ));
    lines.join("\n")
}

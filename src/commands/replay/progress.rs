//! The progress of a replay: records, rate and remaining time.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};

use super::say;

/// Time between two lines of progress where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Records, rate and remaining time: a bar on a terminal, else a line every few seconds.
pub(super) struct ReplayProgress {
    bar: ProgressBar,
    terminal: bool,
    total: u64,
    started: Instant,
    line: Instant,
    last: (u64, u64),
}

impl ReplayProgress {
    pub(super) fn new(total: u64) -> ReplayProgress {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal && total > 0 { ProgressBar::new(total) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}") {
            bar.set_style(style);
        }
        let now = Instant::now();
        ReplayProgress { bar, terminal, total, started: now, line: now, last: (0, 0) }
    }

    pub(super) fn show(&mut self, offsets: u64, records: u64) {
        self.last = (offsets, records);
        self.show_again();
    }

    pub(super) fn show_again(&mut self) {
        let (offsets, records) = self.last;
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss, reason = "for a person to read")]
        let (rate, left) =
            (records as f64 / seconds, self.total.saturating_sub(offsets) as f64 * seconds / offsets as f64);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is not negative")]
        let rate = HumanCount(rate as u64);
        let left = Duration::try_from_secs_f64(left)
            .map_or_else(|_| "time left unknown".to_owned(), |left| format!("{} left", HumanDuration(left)));
        let text = format!("{} records, {rate}/s, {left}", HumanCount(records));
        if self.terminal {
            self.bar.set_message(text);
            self.bar.set_position(offsets);
        } else if self.line.elapsed() >= LINE_EVERY {
            self.line = Instant::now();
            let percent = offsets.saturating_mul(100).checked_div(self.total).unwrap_or(100);
            let _ = say(&format!("{percent} %, {text}"));
        }
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

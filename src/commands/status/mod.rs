//! `status`: a verdict, the problems with their fixes, offsets, lag and backlogs (contract, section 8). It needs no
//! running daemon.

mod layout;

use std::io::IsTerminal as _;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::output::print;
use crate::status::judge;
use crate::status::problems::Severity;
use crate::survey;

/// Pause of `--watch` between two documents; each takes up to two seconds to gather.
const WATCH_PAUSE: Duration = Duration::from_secs(3);

/// Escape sequence that clears a terminal.
const CLEAR_SCREEN: &str = "\x1b[2J\x1b[H";

/// The options of `status`.
#[derive(Clone, Copy, Debug)]
pub struct StatusOptions {
    /// Repeat until a signal.
    pub watch: bool,
    /// The exit status is 1 for problems of at least this severity.
    pub fail_on: Option<Severity>,
    /// Print JSON, one document per line.
    pub json: bool,
}

/// Prints the document. Returns `false` if a problem has at least the severity `fail_on`.
pub async fn run(
    settings: &Settings,
    options: StatusOptions,
    cancel: CancellationToken,
) -> anyhow::Result<bool> {
    let mut is_good = true;
    loop {
        let facts = tokio::select! {
            facts = survey::gather(settings) => facts?,
            () = cancel.cancelled() => return Ok(is_good),
        };
        let document = judge(&facts);
        is_good = options.fail_on.is_none_or(|severity| !document.has(severity));
        if options.json {
            print(serde_json::to_string(&document)?)?;
        } else {
            let clear = if options.watch && std::io::stdout().is_terminal() { CLEAR_SCREEN } else { "" };
            print(format!("{clear}{}", layout::text(&document)))?;
        }
        if !options.watch || !crate::retry::pause_for(WATCH_PAUSE, &cancel).await {
            return Ok(is_good);
        }
    }
}

//! `status`: a verdict, what is wrong with the command that fixes it, and offsets, lag and backlogs (contract,
//! section 8). It works while no daemon runs.

mod layout;

use std::io::IsTerminal as _;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::output::print;
use crate::status::judge;
use crate::status::problems::Severity;
use crate::survey;

/// Pause of `--watch` between two documents, each of which takes two seconds.
const WATCH: Duration = Duration::from_secs(3);

/// Clears a terminal.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// How `status` prints.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Again and again until a signal.
    pub watch: bool,
    /// The severity from which on the exit status is 1.
    pub fail_on: Option<Severity>,
    /// For a program: one line a document.
    pub json: bool,
}

/// Prints the document. Returns whether nothing is as severe as `fail_on`.
pub async fn run(settings: &Settings, options: Options, cancel: CancellationToken) -> anyhow::Result<bool> {
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
            let clear = if options.watch && std::io::stdout().is_terminal() { CLEAR } else { "" };
            print(format!("{clear}{}", layout::text(&document)))?;
        }
        if !options.watch || !crate::retry::pause_for(WATCH, &cancel).await {
            return Ok(is_good);
        }
    }
}

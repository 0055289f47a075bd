//! `demo`: everything at once, on an embedded broker and a throw-away PostgreSQL.

use tokio_util::sync::CancellationToken;

use crate::config::Settings;

/// What `demo` is asked for.
#[allow(missing_docs, reason = "the flags of the command")]
pub struct Options {
    pub calls: u64,
    pub seed: u64,
    pub keep: bool,
    pub disorder: bool,
}

/// Runs it.
pub async fn run(_settings: &Settings, _options: Options, _cancel: CancellationToken) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}

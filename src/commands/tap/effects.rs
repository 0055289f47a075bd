//! The rows that a record would make or change: a write through the daemon's code that is rolled back.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::bail;
use tokio_util::sync::CancellationToken;

use crate::commands::tally::{Rows, Tally};
use crate::event::Unusable;
use crate::ingest::{Ingest, Positions, Stop};
use crate::record::Record;

/// The effects of a record, if it were written.
#[derive(Debug, Default)]
pub struct Effects {
    /// Row counts by table.
    pub rows: BTreeMap<&'static str, Rows>,
}

/// `call_log 1 made; voice_clone_cache 1 changed`
impl fmt::Display for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (table, Rows { made, changed, left_alone }) in &self.rows {
            let counts = [(made, "made"), (changed, "changed"), (left_alone, "left alone")];
            let counts = counts.iter().filter(|(count, _)| **count > 0);
            let counts: Vec<String> = counts.map(|(count, did)| format!("{count} {did}")).collect();
            if !counts.is_empty() {
                parts.push(format!("{table} {}", counts.join(", ")));
            }
        }
        f.write_str(if parts.is_empty() { "none" } else { "" })?;
        f.write_str(&parts.join("; "))
    }
}

/// Writes a record and rolls it back, with an `ingest` in rehearsal mode. Returns its effects, or why the database
/// refuses it; `None` where it was interrupted, for example while the database is away.
pub async fn rehearse(
    ingest: &Ingest,
    record: &Record,
    cancel: &CancellationToken,
) -> anyhow::Result<Option<Result<Effects, Unusable>>> {
    let mut positions = Positions::new();
    let trial = ingest.write(std::slice::from_ref(record), &mut positions, cancel);
    // `cancel` ends a pause between two retries at once, but not a statement that waits for the server
    let written = tokio::select! {
        written = trial => match written {
            Ok(written) => written,
            Err(Stop::Cancelled) => return Ok(None),
            Err(Stop::Fenced) => bail!("this is a bug: a rehearsal moves no offsets and hit a fence"),
        },
        () = cancel.cancelled() => return Ok(None),
    };
    if let Some((_, _, unusable)) = written.refused.into_iter().next() {
        return Ok(Some(Err(unusable)));
    }
    let mut tally = Tally::default();
    for (table, rows) in &written.rows {
        tally.add(table, rows)?;
    }
    Ok(Some(Ok(Effects { rows: tally.count()? })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_shown_by_table() {
        let rows = BTreeMap::from([
            ("call_log", Rows { made: 1, changed: 0, left_alone: 0 }),
            ("voice_clone_cache", Rows { made: 0, changed: 2, left_alone: 1 }),
            ("voice_clone_log", Rows::default()),
        ]);
        let text = Effects { rows }.to_string();
        assert_eq!(text, "call_log 1 made; voice_clone_cache 2 changed, 1 left alone");
        assert_eq!(Effects::default().to_string(), "none");
    }
}

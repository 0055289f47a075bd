//! Counts the rows that a replay wrote, each once however many batches wrote it. Rows are kept in memory up to a limit,
//! then in temporary files, so that memory stays bounded.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};

use anyhow::Context as _;
use serde::Serialize;
use uuid::Uuid;

use crate::store::write::RowOutcome;

/// Maximum number of rows kept in memory; about 20 MiB.
const MAX_IN_MEMORY: usize = 400_000;

/// Number of temporary files. Rows are assigned to one by their id, and the files are read back one at a time.
const FILES: usize = 64;

/// Size in bytes of an entry of a file: table (1), outcome (1), id (16).
const ENTRY_BYTES: usize = 18;

/// Rows of one table that were inserted, changed, and left unchanged; each is counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Rows {
    pub made: u64,
    pub changed: u64,
    pub left_alone: u64,
}

/// The outcome for each row.
#[derive(Default)]
pub struct Tally {
    tables: Vec<&'static str>,
    rows: HashMap<(u8, Uuid), RowOutcome>,
    /// Unlinked files in the folder for temporary files.
    files: Vec<File>,
}

impl Tally {
    /// Adds the outcomes for rows of a table.
    pub fn add(&mut self, table: &'static str, rows: &[(Uuid, RowOutcome)]) -> anyhow::Result<()> {
        let number = self.tables.iter().position(|known| *known == table).unwrap_or_else(|| {
            self.tables.push(table);
            self.tables.len() - 1
        });
        let number = u8::try_from(number).context("there are seven tables")?;
        for (id, did) in rows {
            let known = self.rows.entry((number, *id)).or_insert(*did);
            *known = (*known).max(*did);
        }
        if self.rows.len() >= MAX_IN_MEMORY { self.spill() } else { Ok(()) }
    }

    /// Counts the rows by table.
    pub fn count(&mut self) -> anyhow::Result<BTreeMap<&'static str, Rows>> {
        let mut counted: Vec<Rows> = vec![Rows::default(); self.tables.len()];
        if self.files.is_empty() {
            count(&self.rows, &mut counted);
        } else {
            self.spill()?;
            for file in &mut self.files {
                count(&read(file).context("a temporary file could not be read")?, &mut counted);
            }
        }
        Ok(self.tables.iter().copied().zip(counted).collect())
    }

    fn spill(&mut self) -> anyhow::Result<()> {
        let problem = "no temporary file could be written: give a folder with room in TMPDIR";
        while self.files.len() < FILES {
            self.files.push(tempfile::tempfile().context(problem)?);
        }
        let mut entries: Vec<Vec<u8>> = vec![Vec::new(); FILES];
        for ((table, id), did) in self.rows.drain() {
            let [first, ..] = *id.as_bytes();
            if let Some(entries) = entries.get_mut(usize::from(first) % FILES) {
                entries.extend([table, did as u8]);
                entries.extend(id.as_bytes());
            }
        }
        for (file, entries) in self.files.iter_mut().zip(entries) {
            file.write_all(&entries).context(problem)?;
        }
        Ok(())
    }
}

fn read(file: &mut File) -> std::io::Result<HashMap<(u8, Uuid), RowOutcome>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    let mut rows = HashMap::new();
    for [table, did, id @ ..] in bytes.as_chunks::<ENTRY_BYTES>().0 {
        let did = match did {
            0 => RowOutcome::LeftAlone,
            1 => RowOutcome::Changed,
            _ => RowOutcome::Made,
        };
        let known = rows.entry((*table, Uuid::from_bytes(*id))).or_insert(did);
        *known = did.max(*known);
    }
    Ok(rows)
}

fn count(rows: &HashMap<(u8, Uuid), RowOutcome>, counted: &mut [Rows]) {
    for ((table, _), did) in rows {
        if let Some(counted) = counted.get_mut(usize::from(*table)) {
            match did {
                RowOutcome::Made => counted.made += 1,
                RowOutcome::Changed => counted.changed += 1,
                RowOutcome::LeftAlone => counted.left_alone += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_counts_once_with_its_greatest_outcome_in_memory_and_in_files() {
        for rows in [10, 3 * MAX_IN_MEMORY as u128 / 2] {
            let mut tally = Tally::default();
            let ids: Vec<Uuid> = (0..rows).map(|n| Uuid::new_v5(&Uuid::nil(), &n.to_le_bytes())).collect();
            let all = |did| ids.iter().map(|id| (*id, did)).collect::<Vec<_>>();
            tally.add("one", &all(RowOutcome::LeftAlone)).unwrap();
            tally.add("two", &all(RowOutcome::Made)).unwrap();
            tally.add("two", &all(RowOutcome::Changed)).unwrap();
            tally.add("one", &all(RowOutcome::Changed)[..3]).unwrap();
            let counted = tally.count().unwrap();
            let rows = rows as u64;
            assert_eq!(counted["one"], Rows { made: 0, changed: 3, left_alone: rows - 3 });
            assert_eq!(counted["two"], Rows { made: rows, changed: 0, left_alone: 0 });
            assert_eq!(tally.count().unwrap(), counted, "counting changes nothing");
        }
    }
}

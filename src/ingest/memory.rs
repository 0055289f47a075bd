//! State that a batch leaves to later ones: a known good record and a transaction size limit for each topic.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::prepare::Part;
use super::sizes::Sizes;
use crate::record::{Record, Topic};

/// Larger records are not kept; an earlier one serves as well.
const KEPT_RECORD_MAX_BYTES: usize = 64 * 1024;

/// Shared by all clones.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<MemoryState>>);

#[derive(Debug, Default)]
struct MemoryState {
    good: BTreeMap<Topic, Record>,
    sizes: Sizes,
}

impl Memory {
    fn kept(&self) -> MutexGuard<'_, MemoryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the last record of a topic that landed and produced a row.
    pub(super) fn good(&self, topic: Topic) -> Option<Record> {
        self.kept().good.get(&topic).cloned()
    }

    /// Remembers records that landed.
    pub(super) fn landed(&self, good: &BTreeMap<Topic, &Record>) {
        for (topic, record) in good.iter().filter(|(_, record)| record.size() <= KEPT_RECORD_MAX_BYTES) {
            let record = (*record).clone();
            self.kept().good.insert(*topic, record);
        }
    }

    /// Returns the maximum number of records of a topic in one transaction.
    pub(super) fn limit(&self, topic: Topic) -> usize {
        self.kept().sizes.limit(topic, Instant::now())
    }

    /// Whether these parts fit into one transaction.
    pub(super) fn fit(&self, parts: &[Part<'_, '_>]) -> bool {
        self.kept().sizes.fit(&counts(parts), Instant::now())
    }

    /// Halves the limits after a transaction with these parts was too large.
    pub(super) fn too_large(&self, parts: &[Part<'_, '_>]) {
        self.kept().sizes.too_large(&counts(parts), Instant::now());
    }

    /// Removes a topic's limit, when a single record was too slow or too large.
    pub(super) fn forget_limit(&self, topic: Topic) {
        self.kept().sizes.forget(topic);
    }
}

fn counts(parts: &[Part<'_, '_>]) -> BTreeMap<Topic, usize> {
    let mut counts = BTreeMap::new();
    for part in parts {
        *counts.entry(part.key.topic).or_default() += part.records.len();
    }
    counts
}

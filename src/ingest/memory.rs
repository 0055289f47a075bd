//! What a batch leaves to the next ones: a known good record of each topic, and how much a transaction may hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::prepare::Part;
use super::sizes::Sizes;
use crate::record::{Record, Topic};

/// A larger record is not kept: the one before it serves as well.
const MOST_BYTES: usize = 64 * 1024;

/// Shared by all clones.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    good: BTreeMap<Topic, Record>,
    sizes: Sizes,
}

impl Memory {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last record of a topic that landed and made a row.
    pub(super) fn good(&self, topic: Topic) -> Option<Record> {
        self.kept().good.get(&topic).cloned()
    }

    /// Takes in what landed.
    pub(super) fn landed(&self, good: &BTreeMap<Topic, &Record>) {
        for (topic, record) in good.iter().filter(|(_, record)| record.size() <= MOST_BYTES) {
            let record = (*record).clone();
            self.kept().good.insert(*topic, record);
        }
    }

    /// The most records of a topic in a transaction.
    pub(super) fn limit(&self, topic: Topic) -> usize {
        self.kept().sizes.limit(topic, Instant::now())
    }

    /// Whether these may share a transaction.
    pub(super) fn fit(&self, parts: &[Part<'_, '_>]) -> bool {
        self.kept().sizes.fit(&counts(parts), Instant::now())
    }

    /// These were too many for one transaction.
    pub(super) fn too_large(&self, parts: &[Part<'_, '_>]) {
        self.kept().sizes.too_large(&counts(parts), Instant::now());
    }

    /// A single record of the topic was too slow or too large, not the number.
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

//! The promises about time: unaffected partitions keep moving, and everything settles.

use std::collections::BTreeMap;

use super::faults::Fault;
use super::{INSTANCES, Millis, World};
use crate::record::{Topic, TopicPartition};

/// Maximum time that records wait in a partition that no fault affects.
const NEVER_STOPS: Millis = 8000;

/// Maximum time after a fault until a partition is read again: the pauses between attempts grow to 10 s.
pub(super) const RECOVERED_WITHIN: Millis = 25_000;

/// Maximum time that a partition stands still while it moves to another member.
pub(super) const MOVED: Millis = 10_000;

/// Maximum time after the last fault until everything has settled.
pub(super) const SETTLED_WITHIN: Millis = 90_000;

/// The state of the checks.
#[derive(Default)]
pub(super) struct Watch {
    /// By partition: the stored offset, and the time since which it has not moved although records wait.
    seen: BTreeMap<TopicPartition, (Option<i64>, Millis)>,
    excused: BTreeMap<TopicPartition, Millis>,
    all_excused: Millis,
    /// Ongoing faults.
    pub faults: Vec<Fault>,
    /// Topics that are deleted at the moment, with their partitions.
    pub deleted: BTreeMap<Topic, i32>,
}

impl Watch {
    pub fn excuse(&mut self, key: TopicPartition, until: Millis) {
        let excused = self.excused.entry(key).or_default();
        *excused = until.max(*excused);
    }

    /// Adjusts the clocks after skipped hours.
    pub fn rested(&mut self) {
        self.seen.clear();
    }

    pub fn excuse_all(&mut self, until: Millis) {
        self.all_excused = until.max(self.all_excused);
    }
}

impl World {
    /// Checks every second that partitions without a fault move on.
    pub(super) fn check_the_others(&mut self) {
        let now = self.now;
        for fault in self.watch.faults.clone() {
            self.excuse(fault, RECOVERED_WITHIN);
        }
        let heard: Vec<_> = self.instances.iter().filter(|it| it.is_heard(now)).map(|it| it.who).collect();
        for (key, log) in &self.kafka.logs {
            let watch = &mut self.watch;
            // No member can read it until the session of the previous owner has ended.
            if !self.kafka.group.owners(*key).any(|who| heard.contains(&who)) {
                watch.excuse(*key, now + super::checks::MOVED);
            }
            let stored = self.store.positions.get(key).map(|position| position.next_offset);
            let seen = watch.seen.entry(*key).or_insert((stored, now));
            let excused = watch.excused.get(key).copied().unwrap_or(0).max(watch.all_excused);
            if seen.0 != stored || stored.unwrap_or(0) >= log.end() || excused > now {
                *seen = (stored, now.max(excused));
            } else if now > seen.1 + NEVER_STOPS {
                let text =
                    format!("{key} stands at {stored:?} of {} although no fault concerns it", log.end());
                self.store.broken.get_or_insert(text);
            }
        }
        for instance in &self.instances {
            if let Some(unanswered) = &instance.client.unanswered
                && instance.is_heard(now)
                && unanswered.since.max(instance.frozen_until) + super::group::MAX_POLL_INTERVAL < now
            {
                let text = format!("instance {} does not answer a rebalance", instance.who.0);
                self.store.broken.get_or_insert(text);
            }
        }
    }

    /// Returns the first condition that does not hold after all faults are over; `None` if all hold.
    pub(super) fn unsettled(&self) -> Option<String> {
        for (key, log) in &self.kafka.logs {
            let id = self.kafka.ids.get(&key.topic).copied();
            match self.store.positions.get(key) {
                Some(stored) if stored.stopped => return Some(format!("{key} is stopped")),
                Some(stored) if stored.topic_id == id && stored.next_offset == log.end() => {}
                stored => {
                    return Some(format!("{key} has a lag: {stored:?}, and the log ends at {}", log.end()));
                }
            }
            let mut readers = self.instances.iter().filter(|it| it.running && it.client.is_reading(*key));
            let reader = readers.next().map(|it| it.who);
            let owners: Vec<_> = self.kafka.group.owners(*key).collect();
            if readers.next().is_some()
                || reader.is_none()
                || owners != reader.into_iter().collect::<Vec<_>>()
            {
                return Some(format!("{key} belongs to {owners:?} and is read by {reader:?}"));
            }
        }
        if self.kafka.group.changed || self.kafka.group.members.len() != INSTANCES {
            return Some(format!("the group has {} members", self.kafka.group.members.len()));
        }
        let now = self.instant();
        self.instances.iter().find_map(|instance| {
            let number = instance.who.0;
            if !instance.is_heard(self.now) {
                return Some(format!("instance {number} does not run"));
            }
            if instance.client.has_events() || instance.client.unanswered.is_some() || instance.tasks > 0 {
                let (unanswered, tasks) = (&instance.client.unanswered, instance.tasks);
                return Some(format!("instance {number} has something to do: {unanswered:?}, {tasks} tasks"));
            }
            let timeout = instance.machine.next_timeout(now)?;
            Some(format!("instance {number} waits for {:?}", timeout.duration_since(now)))
        })
    }
}

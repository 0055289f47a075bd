//! The coordinator of the group, with cooperative and sticky assignment.

use std::collections::{BTreeMap, BTreeSet};

use super::{Millis, Who};
use crate::record::TopicPartition;

/// Kafka's `session.timeout.ms`, as the daemon sets it.
pub(super) const SESSION_TIMEOUT: Millis = 10_000;

/// Kafka's `max.poll.interval.ms`, as the daemon sets it.
pub(super) const MAX_POLL_INTERVAL: Millis = 60_000;

#[derive(Default)]
pub(super) struct Member {
    /// The partitions that were assigned to it and not released yet.
    pub owned: BTreeSet<TopicPartition>,
    /// The time of the last heartbeat.
    pub heard: Millis,
}

#[derive(Default)]
pub(super) struct Group {
    pub members: BTreeMap<Who, Member>,
    /// Whether members or partitions changed, so that a rebalance is due.
    pub changed: bool,
}

/// The changes of a member's assignment by a rebalance.
pub(super) struct Change {
    pub member: Who,
    pub revoked: Vec<TopicPartition>,
    pub added: Vec<TopicPartition>,
}

impl Group {
    pub fn owners(&self, key: TopicPartition) -> impl Iterator<Item = Who> {
        self.members.iter().filter(move |(_, member)| member.owned.contains(&key)).map(|(who, _)| *who)
    }

    /// One round of rebalancing: each member keeps partitions up to its share, and unowned partitions go to members
    /// with less. A revoked partition gets a new owner in a later round, once it was released.
    pub fn rebalance(&mut self, partitions: &BTreeSet<TopicPartition>) -> Vec<Change> {
        self.changed = false;
        let count = self.members.len().max(1);
        let (share, mut larger) = (partitions.len() / count, partitions.len() % count);
        let mut free: Vec<TopicPartition> =
            partitions.iter().copied().filter(|key| self.owners(*key).next().is_none()).collect();
        let mut order: Vec<Who> = self.members.keys().copied().collect();
        order.sort_by_key(|who| (usize::MAX - self.members[who].owned.len(), *who));
        let mut changes = Vec::new();
        for who in order {
            let Some(member) = self.members.get_mut(&who) else { continue };
            let mut quota = share;
            let existing = member.owned.intersection(partitions).count();
            if larger > 0 && (existing > share || free.len() > share.saturating_sub(existing)) {
                larger -= 1;
                quota += 1;
            }
            let mut kept = 0;
            let revoked = member.owned.iter().copied().filter(|key| {
                let keep = partitions.contains(key) && kept < quota;
                kept += usize::from(keep);
                !keep
            });
            let revoked: Vec<TopicPartition> = revoked.collect();
            let wanted = quota.saturating_sub(kept).min(free.len());
            let added: Vec<TopicPartition> = free.drain(..wanted).collect();
            member.owned.extend(added.iter().copied());
            changes.push(Change { member: who, revoked, added });
        }
        // A partition that no member took goes to the first.
        if let Some(first) = changes.first_mut() {
            let member = self.members.entry(first.member).or_default();
            member.owned.extend(free.iter().copied());
            first.added.extend(free);
        }
        changes
    }
}

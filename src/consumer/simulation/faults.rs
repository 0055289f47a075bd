//! Faults, drawn from the seed.

use super::checks::RECOVERED_WITHIN;
use super::group::Member;
use super::instance::Instance;
use super::{Happening, INSTANCES, Millis, TOPICS, World};
use crate::kafka::group::GroupEvent;
use crate::record::{Topic, TopicPartition};
use rdkafka::error::RDKafkaErrorCode;

#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// No broker leads the partition.
    Leaderless(TopicPartition),
    /// The leader accepts connections and does not answer.
    Silent(TopicPartition),
    /// Retention or DeleteRecords removes up to this percentage of the log.
    Deleted(TopicPartition, u64),
    /// The topic is deleted, and recreated at the end.
    Recreated(Topic),
    PartitionAdded(Topic),
    /// A batch cannot be decompressed; `skip` ends the fault.
    Unreadable(TopicPartition),
    /// All brokers are unreachable.
    BrokersAway,
    /// An instance is killed, and restarted at the end.
    Killed(usize),
    /// An instance is stopped orderly, and restarted.
    Ended(usize),
    /// A process is suspended (SIGSTOP), and resumed.
    Frozen(usize),
    /// The network of an instance is cut.
    Disconnected(usize),
    /// Another process with the same instance id takes its place in the group until the end.
    Fenced(usize),
    DatabaseAway,
    DatabaseSlow,
    /// Parts of batches fail, and writes end without a result.
    Unsteady,
    /// A table accepts no good row.
    Drifted(Topic),
    /// `DEAD_LETTER_LIMIT` is reached; `accept` ends the fault.
    AtLimit(TopicPartition),
    Paused(Topic),
    /// A backup of the database is restored.
    Restored,
}

/// Represents the process that fences an instance.
const STRANGER: usize = INSTANCES;

impl World {
    /// Draws the traffic and the faults of the next minutes.
    pub(super) fn plan(&mut self) {
        self.traffic_ends = self.now + self.dice.within(15_000..60_000);
        self.calm = self.traffic_ends;
        self.at(self.now, Happening::Produce);
        self.at(self.now + 1000, Happening::Check);
        // Retention may also strike before anything was read.
        let soon = self.now == 0 && self.dice.chance(50);
        for _ in 0..self.dice.within(1..6) {
            let fault = self.draw();
            let begins = self.now + self.dice.within(0..if soon { 1000 } else { 40_000 });
            let lasts = match self.dice.within(0..10) {
                0..3 => self.dice.within(50..1000),
                3..9 => self.dice.within(1000..60_000),
                _ => self.dice.within(60_000..90_000),
            };
            let lasts = match fault {
                // Longer than librdkafka waits for the answer to a rebalance.
                Fault::DatabaseAway if self.dice.chance(15) => self.dice.within(320_000..400_000),
                _ => lasts,
            };
            // A consumer that is held up loses records that it has not read yet.
            if matches!(fault, Fault::DatabaseAway | Fault::DatabaseSlow) && self.dice.chance(50) {
                let keys: Vec<TopicPartition> = self.kafka.partitions().into_iter().collect();
                let deleted = Fault::Deleted(self.dice.pick(&keys), self.dice.within(50..101));
                let at = begins + self.dice.within(0..lasts);
                self.at(at, Happening::Begin(deleted));
                self.at(at, Happening::End(deleted));
            }
            self.at(begins, Happening::Begin(fault));
            self.at(begins + lasts, Happening::End(fault));
            self.calm = self.calm.max(begins + lasts);
        }
    }

    fn draw(&mut self) -> Fault {
        let keys: Vec<TopicPartition> = self.kafka.partitions().into_iter().collect();
        let key = self.dice.pick(&keys);
        let topic = self.dice.pick(&TOPICS).0;
        let number = self.dice.within(0..INSTANCES as u64) as usize;
        match self.dice.within(0..23) {
            0 | 1 => Fault::Leaderless(key),
            2 => Fault::Silent(key),
            3 | 4 => Fault::Deleted(key, self.dice.within(1..101)),
            5 => Fault::Recreated(topic),
            6 if keys.len() < 12 => Fault::PartitionAdded(topic),
            6 | 7 => Fault::Unreadable(key),
            8 => Fault::BrokersAway,
            9 | 10 => Fault::Killed(number),
            11 => Fault::Ended(number),
            12 => Fault::Frozen(number),
            13 => Fault::Disconnected(number),
            14 => Fault::Fenced(number),
            15 | 16 => Fault::DatabaseAway,
            17 => Fault::DatabaseSlow,
            18 => Fault::Unsteady,
            19 => Fault::Drifted(topic),
            20 => Fault::AtLimit(key),
            21 => Fault::Paused(topic),
            _ => Fault::Restored,
        }
    }

    pub(super) fn begin(&mut self, fault: Fault) {
        self.note(|| format!("{fault:?} begins"));
        match fault {
            Fault::Leaderless(key) => self.with_log(key, |log| log.leaderless = true),
            Fault::Silent(key) => self.with_log(key, |log| log.silent = true),
            Fault::Deleted(key, percent) => {
                self.with_log(key, |log| {
                    log.low = log.low.max(log.end() * percent as i64 / 100);
                });
            }
            Fault::Recreated(topic) => {
                let count = self.kafka.delete(topic);
                self.watch.deleted.insert(topic, count);
                self.coordinate_soon();
            }
            Fault::PartitionAdded(topic) => {
                self.kafka.add_partition(topic);
                self.coordinate_soon();
            }
            Fault::Unreadable(key) => {
                let size = self.dice.within(1..20) as i64;
                self.with_log(key, |log| {
                    log.unreadable = Some((log.end(), log.end() + size));
                    log.entries.extend((0..size).map(|_| true));
                });
            }
            Fault::BrokersAway => self.kafka.away = true,
            Fault::Killed(number) => self.go_away(number, false),
            Fault::Ended(number) => self.go_away(number, true),
            Fault::Frozen(number) => self.instances[number].frozen_until = Millis::MAX,
            Fault::Disconnected(number) => self.instances[number].connected = false,
            Fault::Fenced(number) => self.fence(number),
            Fault::DatabaseAway => self.store.away = true,
            Fault::DatabaseSlow => self.store.slow = true,
            Fault::Unsteady => self.store.unsteady = true,
            Fault::Drifted(topic) => drop(self.store.drifted.insert(topic)),
            Fault::AtLimit(key) => drop(self.store.at_limit.insert(key)),
            Fault::Paused(topic) => drop(self.store.paused.insert(topic)),
            Fault::Restored => self.store.restore(&mut self.dice),
        }
        self.coordinate_soon();
        self.fetch_all();
        self.watch.faults.push(fault);
    }

    pub(super) fn end(&mut self, fault: Fault) {
        self.note(|| format!("{fault:?} ends"));
        match fault {
            Fault::Leaderless(key) => self.with_log(key, |log| log.leaderless = false),
            Fault::Silent(key) => self.with_log(key, |log| log.silent = false),
            Fault::Recreated(topic) => {
                let count = self.watch.deleted.remove(&topic).filter(|count| *count > 0);
                if let Some(count) = count {
                    self.kafka.create(topic, count);
                }
            }
            Fault::Unreadable(key) => self.skip(key),
            Fault::BrokersAway => {
                self.kafka.away = false;
                let now = self.now;
                self.kafka.group.members.values_mut().for_each(|member| member.heard = now);
            }
            Fault::Frozen(number) => {
                self.instances[number].frozen_until = self.now;
                self.drive(number);
            }
            Fault::Disconnected(number) => self.instances[number].connected = true,
            Fault::Fenced(_) => {
                self.kafka.group.members.retain(|(number, _), _| *number != STRANGER);
                self.kafka.group.changed = true;
            }
            Fault::DatabaseAway => self.store.away = false,
            Fault::DatabaseSlow => self.store.slow = false,
            Fault::Unsteady => self.store.unsteady = false,
            Fault::Drifted(topic) => drop(self.store.drifted.remove(&topic)),
            Fault::AtLimit(key) => {
                self.store.at_limit.remove(&key);
                self.store.accept();
            }
            Fault::Paused(topic) => drop(self.store.paused.remove(&topic)),
            Fault::Deleted(..)
            | Fault::PartitionAdded(_)
            | Fault::Killed(_)
            | Fault::Ended(_)
            | Fault::Restored => {}
        }
        self.coordinate_soon();
        self.fetch_all();
        let at = self.watch.faults.iter().position(|other| format!("{other:?}") == format!("{fault:?}"));
        if let Some(at) = at {
            self.watch.faults.remove(at);
        }
        // The affected partitions get some time to recover.
        self.excuse(fault, RECOVERED_WITHIN);
    }

    /// Excuses the partitions that a fault affects.
    pub(super) fn excuse(&mut self, fault: Fault, time: Millis) {
        let until = self.now + time;
        match fault {
            Fault::Leaderless(key)
            | Fault::Silent(key)
            | Fault::Deleted(key, _)
            | Fault::Unreadable(key)
            | Fault::AtLimit(key) => self.watch.excuse(key, until),
            Fault::Drifted(topic) | Fault::Paused(topic) => {
                for key in self.kafka.partitions().into_iter().filter(|key| key.topic == topic) {
                    self.watch.excuse(key, until);
                }
            }
            Fault::Recreated(_)
            | Fault::BrokersAway
            | Fault::DatabaseAway
            | Fault::DatabaseSlow
            | Fault::Unsteady
            | Fault::Restored => self.watch.excuse_all(until),
            // Partitions that move are excused while they move; others are not.
            Fault::PartitionAdded(_)
            | Fault::Killed(_)
            | Fault::Ended(_)
            | Fault::Frozen(_)
            | Fault::Disconnected(_)
            | Fault::Fenced(_) => {}
        }
    }

    fn with_log(&mut self, key: TopicPartition, change: impl FnOnce(&mut super::kafka::Log)) {
        if let Some(log) = self.kafka.logs.get_mut(&key) {
            change(log);
        }
    }

    fn go_away(&mut self, number: usize, leaves: bool) {
        if self.instances[number].running {
            let pause = self.dice.within(200..40_000);
            self.stop(number, leaves, pause);
        }
    }

    /// Another process with the same `group.instance.id` takes the instance's place and its partitions.
    fn fence(&mut self, number: usize) {
        let now = self.now;
        let instance: &mut Instance = &mut self.instances[number];
        if !instance.is_heard(now) {
            return;
        }
        let Some(member) = self.kafka.group.members.remove(&instance.who) else { return };
        let life = instance.who.1;
        self.kafka.group.members.insert((STRANGER, life), Member { heard: Millis::MAX, ..member });
        instance.client.dead = true;
        instance.client.unanswered = None;
        let (code, reason) = (RDKafkaErrorCode::FencedInstanceId, "fenced".to_owned());
        instance.client.report(GroupEvent::ClientDied { code, reason });
        self.drive(number);
    }

    /// Runs `skip` if the partition waits at the batch that cannot be decompressed.
    fn skip(&mut self, key: TopicPartition) {
        let Some(log) = self.kafka.logs.get_mut(&key) else { return };
        let Some((from, to)) = log.unreadable.take() else { return };
        let Some(position) = self.store.positions.get(&key) else { return };
        let waits_there = (position.next_offset..from).all(|offset| !log.has_record(offset));
        if waits_there
            && position.topic_id == self.kafka.ids.get(&key.topic).copied()
            && position.next_offset < to
        {
            self.store.skip(key, to);
            self.note(|| format!("{key}: skip to {to}"));
        }
    }
}

//! An instance: its machine, its client, and the loop of the driver in virtual time.

use std::time::Duration;

use super::client::{Client, Release};
use super::tasks::Task;
use super::{Happening, Millis, Rule, Who, World, group};
use crate::consumer::topics::TopicWatch;
use crate::consumer::{Action, BatchLimits, Input, Machine, ViewState};
use crate::ingest::outcome::{Effort, OffsetSpan};
use crate::kafka::group::GroupEvent;
use crate::record::TopicPartition;

const LIMITS: BatchLimits = BatchLimits { records: 20, bytes: 8 << 20, wait: Duration::from_millis(20) };

pub(super) struct Instance {
    pub who: Who,
    pub machine: Machine,
    pub client: Client,
    pub running: bool,
    pub frozen_until: Millis,
    pub connected: bool,
    pub tasks: usize,
    pub topics: TopicWatch,
    wake: Option<Millis>,
    fetching: bool,
    pub looks: u64,
    pub comparing: bool,
    pub watching: bool,
}

impl Instance {
    pub fn new(number: usize) -> Instance {
        Instance {
            who: (number, 0),
            machine: machine(number),
            client: Client::default(),
            running: false,
            frozen_until: 0,
            connected: true,
            tasks: 0,
            topics: TopicWatch::default(),
            wake: None,
            fetching: false,
            looks: 0,
            comparing: false,
            watching: false,
        }
    }

    pub fn rested(&mut self) {
        (self.wake, self.fetching) = (None, false);
    }

    /// Whether its client can reach the brokers.
    pub fn is_heard(&self, now: Millis) -> bool {
        self.running && self.connected && !self.client.dead && self.frozen_until <= now
    }
}

fn machine(number: usize) -> Machine {
    let mut machine = Machine::new(LIMITS);
    machine.jitter_seed = number as u32;
    machine
}

impl World {
    pub(super) fn reaches_kafka(&self, number: usize) -> bool {
        !self.kafka.away && self.instances[number].connected
    }

    /// Whether this client is still the instance's current one; a frozen one continues later.
    pub(super) fn is_up(&self, who: Who) -> bool {
        let instance = &self.instances[who.0];
        instance.running && instance.who == who
    }

    /// The time at which a frozen instance can act again.
    pub(super) fn thaws(&self, who: Who) -> Option<Millis> {
        (self.instances[who.0].frozen_until > self.now).then_some(self.now + 100)
    }

    pub(super) fn start(&mut self, number: usize) {
        let ids = self.reaches_kafka(number).then(|| self.kafka.ids.clone());
        let life = self.instances[number].who.1 + 1;
        let connected = self.instances[number].connected;
        self.instances[number] =
            Instance { who: (number, life), running: true, connected, ..Instance::new(number) };
        if let Some(ids) = ids {
            self.instances[number].topics.compare(&ids);
        }
        self.note(|| format!("{number}: client {life} starts"));
        self.after(0..2000, Happening::Look((number, life)));
        self.coordinate_soon();
    }

    /// Stops a client. `leaves`: it notifies the coordinator.
    pub(super) fn stop(&mut self, number: usize, leaves: bool, pause: Millis) {
        let who = self.instances[number].who;
        self.instances[number].running = false;
        self.instances[number].client = Client::default();
        if leaves && self.reaches_kafka(number) {
            self.kafka.group.members.remove(&who);
            self.kafka.group.changed = true;
        }
        self.note(|| format!("{number}: client {} ends", who.1));
        self.coordinate_soon();
        self.at(self.now + pause, Happening::Start(number));
    }

    /// Returns whether the coordinator must run again.
    pub(super) fn heartbeat(&mut self, number: usize) -> bool {
        let now = self.now;
        let instance = &mut self.instances[number];
        if !instance.running || instance.client.dead {
            return false;
        }
        let frozen = instance.frozen_until > now;
        if let Some(unanswered) = &instance.client.unanswered
            && unanswered.since + group::MAX_POLL_INTERVAL < now
        {
            let text =
                format!("instance {number} was thrown out of the group: it did not answer a rebalance");
            self.store.broken.get_or_insert(text);
        }
        let heard = instance.is_heard(now);
        let (who, client) = (instance.who, &mut instance.client);
        let members = &mut self.kafka.group.members;
        match members.get_mut(&who) {
            Some(member) if heard => {
                member.heard = now;
                return false;
            }
            Some(member) if !frozen && client.member && member.heard + group::SESSION_TIMEOUT <= now => {}
            Some(_) => return true,
            None if heard && !client.member && client.unanswered.is_none() => {
                members.insert(who, group::Member { heard: now, ..Default::default() });
                self.kafka.group.changed = true;
                client.member = true;
                return true;
            }
            None if heard && client.member => {}
            None => return true,
        }
        // The session is over.
        client.member = false;
        let partitions: Vec<TopicPartition> = client.given.iter().copied().collect();
        client.take_away(Release { partitions, then: None }, true, now);
        self.note(|| format!("{number}: its session is over"));
        self.drive(number);
        true
    }

    pub(super) fn fetch_soon(&mut self, number: usize) {
        let who = self.instances[number].who;
        if self.instances[number].running && !std::mem::replace(&mut self.instances[number].fetching, true) {
            self.after(5..40, Happening::Fetch(who));
        }
    }

    pub(super) fn fetch(&mut self, who: Who) {
        if !self.is_up(who) {
            return;
        }
        if let Some(thaws) = self.thaws(who) {
            return self.at(thaws, Happening::Fetch(who));
        }
        self.instances[who.0].fetching = false;
        if !self.reaches_kafka(who.0) || self.instances[who.0].client.dead {
            return;
        }
        if self.instances[who.0].client.fetch(&self.kafka, self.now) {
            self.fetch_soon(who.0);
        }
        self.drive(who.0);
    }

    pub(super) fn wake(&mut self, who: Who) {
        if !self.is_up(who) {
            return;
        }
        match self.thaws(who) {
            Some(thaws) => self.at(thaws, Happening::Wake(who)),
            None => {
                self.instances[who.0].wake = None;
                self.drive(who.0);
            }
        }
    }

    /// The loop of the driver.
    pub(super) fn drive(&mut self, number: usize) {
        let (who, now) = (self.instances[number].who, self.instant());
        if !self.is_up(who) || self.thaws(who).is_some() {
            return;
        }
        for turn in 0.. {
            if turn > 1000 {
                self.store.broken.get_or_insert(format!("instance {number} is polled for ever"));
                return;
            }
            if let Some(action) = self.instances[number].machine.poll(now) {
                self.perform(number, action);
                continue;
            }
            let mut taken = 0;
            while taken < 256 && self.instances[number].machine.wants_records() {
                let Some(event) = self.instances[number].client.next_event() else { break };
                taken += 1;
                self.take(number, event);
                if !self.is_up(who) {
                    return;
                }
            }
            if taken == 0 {
                break;
            }
            self.fetch_soon(number);
        }
        self.answer_late(number);
        let Some(timeout) = self.instances[number].machine.next_timeout(now) else { return };
        if timeout <= now {
            self.store.broken.get_or_insert(format!("instance {number} has a timeout that has passed"));
        }
        let wake = timeout.duration_since(self.epoch).as_millis() as Millis + 1;
        let instance = &mut self.instances[number];
        if instance.wake.is_none_or(|earlier| wake < earlier) {
            instance.wake = Some(wake);
            self.at(wake, Happening::Wake(who));
        }
    }

    fn take(&mut self, number: usize, event: GroupEvent) {
        let now = self.instant();
        if !matches!(event, GroupEvent::Record(_)) {
            self.note(|| format!("{number}: {event:?}"));
        }
        let instance = &mut self.instances[number];
        match event {
            GroupEvent::Record(record) => instance.machine.push(record, now),
            GroupEvent::EndOfPartition { partition, offset } => {
                if self.without != Some(Rule::UseEnds) {
                    instance.machine.handle(Input::EndOfPartition { partition, offset }, now);
                }
            }
            GroupEvent::OffsetOutOfRange { partition } => {
                instance.machine.handle(Input::OffsetOutOfRange(partition), now);
            }
            GroupEvent::PartitionFailed { partition, offset, reason } => {
                instance.machine.handle(Input::Unreadable { partition, offset, reason }, now);
            }
            GroupEvent::Assigned(partitions) => {
                instance.machine.handle(Input::Assigned(partitions), now);
                if self.without != Some(Rule::AnswerAtOnce) {
                    instance.client.answer_assignment();
                    self.coordinate_soon();
                }
            }
            GroupEvent::Revoked { partitions, .. } => {
                let release = instance.client.answer_revocation();
                instance.machine.handle(Input::Revoked(partitions), now);
                if let Some(release) = release {
                    self.released(number, release);
                }
            }
            GroupEvent::ClientDied { .. } => {
                if self.without != Some(Rule::ReplaceTheDead) {
                    let pause = self.dice.within(1000..10_000);
                    self.stop(number, false, pause);
                }
            }
            GroupEvent::ClientFailed { .. } | GroupEvent::Statistics(_) | GroupEvent::Log { .. } => {}
        }
    }

    /// Answers like a driver that waits until it knows the positions.
    fn answer_late(&mut self, number: usize) {
        let instance = &mut self.instances[number];
        if self.without == Some(Rule::AnswerAtOnce)
            && instance.machine.view().all(|view| view.state != ViewState::Starting)
            && instance.client.answer_assignment()
        {
            self.coordinate_soon();
        }
    }

    fn perform(&mut self, number: usize, action: Action) {
        if !matches!(action, Action::Write { .. }) {
            self.note(|| format!("{number}: {action:?}"));
        }
        match action {
            Action::Load(asked) => self.spawn(number, 5..60, Task::Load(asked)),
            Action::LookUp(look_ups) => self.spawn(number, 5..60, Task::LookUp(look_ups)),
            Action::Read(offsets) => self.read(number, &offsets),
            Action::StopReading(partitions) => {
                if self.without == Some(Rule::AssignAgain) {
                    return;
                }
                if let Some(release) = self.instances[number].client.stop_reading(&partitions) {
                    self.released(number, release);
                }
            }
            Action::Pause(partitions) => self.instances[number].client.pause(&partitions, true),
            Action::Resume(offsets) => {
                let partitions: Vec<TopicPartition> = offsets.iter().map(|(key, _)| *key).collect();
                let client = &mut self.instances[number].client;
                if self.without == Some(Rule::ResumeByAssigning) {
                    client.pause(&partitions, false);
                    return self.fetch_soon(number);
                }
                let release = client.stop_reading(&partitions);
                let _ = client.assign(&offsets);
                let answered = client.answer_assignment();
                if let Some(release) = release {
                    self.released(number, release);
                }
                if answered {
                    self.coordinate_soon();
                }
                self.fetch_soon(number);
            }
            Action::Write { id, effort, batch } => {
                let spans = &batch.spans;
                let spans = || {
                    let span = |(key, span): (&TopicPartition, &OffsetSpan)| {
                        format!("{key} {}..{}", span.from.next_offset, span.to_offset)
                    };
                    spans.iter().map(span).collect::<Vec<_>>().join(", ")
                };
                self.note(|| format!("{number}: write {id} {effort:?}: {}", spans()));
                let delay = match (self.store.slow, effort) {
                    (true, _) => 500..15_000,
                    (false, Effort::Once) => 3..60,
                    (false, Effort::Thorough) => 50..4000,
                };
                let database_was_there = !self.store.away;
                self.spawn(number, delay, Task::Write { id, effort, batch, database_was_there });
            }
            Action::Report(_) => {}
        }
    }

    fn read(&mut self, number: usize, offsets: &[(TopicPartition, i64)]) {
        let now = self.instant();
        let instance = &mut self.instances[number];
        let mut offsets_to_read = offsets.to_vec();
        if self.without == Some(Rule::AssignAgain) {
            offsets_to_read.retain(|(key, offset)| {
                !instance.client.seek(*key, *offset) && !instance.client.is_assigned(*key)
            });
        }
        if let Err(reason) = instance.client.assign(&offsets_to_read) {
            for (partition, _) in offsets_to_read {
                let input = Input::Unreadable { partition, offset: None, reason: reason.clone() };
                instance.machine.handle(input, now);
            }
        } else if instance.client.answer_assignment() {
            self.coordinate_soon();
        }
        self.fetch_soon(number);
    }
}

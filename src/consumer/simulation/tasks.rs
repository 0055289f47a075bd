//! The tasks around a machine: the questions of `driver`, `look` and `start` to the database and the brokers, in steps
//! that take some time each.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::store::Written;
use super::{Happening, Millis, Rule, Who, World};
use crate::consumer::start::{Decision, decide, decide_in_log};
use crate::consumer::{Input, LookUp, Start, Trouble, TroubleKind, WriteId};
use crate::ingest::outcome::{Batch, Effort};
use crate::record::{Topic, TopicPartition};
use crate::store::offsets::Position;

/// Time until a question to a silent broker times out.
const NO_ANSWER: Millis = 5000;

type Change = (TopicPartition, Option<Position>, Position);

/// A step of a task.
pub(super) enum Task {
    Load(Vec<(TopicPartition, bool)>),
    LookUp(Vec<LookUp>),
    /// Stores positions. `look_ups` is `None` at the end of a look-up.
    Store {
        starts: Vec<(TopicPartition, Start)>,
        changes: Vec<Change>,
        look_ups: Option<Vec<LookUp>>,
    },
    Write {
        id: WriteId,
        effort: Effort,
        batch: Batch,
        database_was_there: bool,
    },
    Compare(BTreeMap<TopicPartition, Position>),
    Watch,
    Watched(Option<BTreeMap<Topic, Uuid>>),
    NotCompared,
    Done(Input),
}

impl World {
    pub(super) fn spawn(&mut self, number: usize, delay: std::ops::Range<u64>, task: Task) {
        self.instances[number].tasks += 1;
        let who = self.instances[number].who;
        self.after(delay, Happening::Task(who, task));
    }

    pub(super) fn look(&mut self, who: Who) {
        if !self.is_up(who) {
            return;
        }
        self.at(self.now + 2000, Happening::Look(who));
        if self.thaws(who).is_some() {
            return;
        }
        let instance = &mut self.instances[who.0];
        instance.looks += 1;
        let watches = instance.looks.is_multiple_of(2);
        let asked = instance.machine.positions();
        if !std::mem::replace(&mut instance.comparing, true) {
            self.spawn(who.0, 3..60, Task::Compare(asked));
        }
        if watches && !std::mem::replace(&mut self.instances[who.0].watching, true) {
            self.spawn(who.0, 3..60, Task::Watch);
        }
        self.drive(who.0);
    }

    pub(super) fn task(&mut self, who: Who, task: Task) {
        let number = who.0;
        if let Task::Write { id, effort, batch, database_was_there } = task {
            let written = self.store.write(batch, effort, database_was_there, &self.kafka, &mut self.dice);
            let input = match written {
                Written::Report(report) => Input::Written { id, report },
                Written::Died => Input::WriteDied(id),
            };
            return self.after(1..20, Happening::Task(who, Task::Done(input)));
        }
        if !self.is_up(who) {
            return;
        }
        if let Some(thaws) = self.thaws(who) {
            return self.at(thaws, Happening::Task(who, task));
        }
        self.instances[number].tasks -= 1;
        match task {
            Task::Load(asked) => self.load(number, asked),
            Task::LookUp(look_ups) => self.look_up(number, look_ups),
            Task::Store { mut starts, changes, look_ups } => {
                let unstored = |text: &str| trouble(TroubleKind::Start, text);
                for (key, from, to) in changes {
                    let start = if self.store.away {
                        unstored("away")
                    } else if self.store.set_position(key, from, to, &self.kafka) {
                        Start::At(to)
                    } else {
                        unstored("another process")
                    };
                    starts.push((key, start));
                }
                let input = match look_ups {
                    Some(look_ups) => Input::Loaded { starts, look_ups },
                    None => Input::LookedUp(starts),
                };
                self.spawn(number, 1..20, Task::Done(input));
            }
            Task::Compare(_) if self.store.away => self.spawn(number, 10..3000, Task::NotCompared),
            Task::Compare(asked) => {
                let (stored, paused) = (self.store.positions.clone(), self.store.paused.clone());
                self.spawn(number, 1..40, Task::Done(Input::Stored { asked, stored, paused }));
            }
            Task::NotCompared => self.instances[number].comparing = false,
            Task::Watch => {
                let ids = self.reaches_kafka(number).then(|| self.kafka.ids.clone());
                let delay = if ids.is_some() { 1..40 } else { NO_ANSWER..NO_ANSWER + 1 };
                self.spawn(number, delay, Task::Watched(ids));
            }
            Task::Watched(ids) => {
                self.instances[number].watching = false;
                if let Some(ids) = ids
                    && self.instances[number].topics.compare(&ids).is_some()
                {
                    self.stop(number, true, 50);
                }
            }
            Task::Done(input) => {
                let now = self.instant();
                if !matches!(input, Input::Stored { .. }) {
                    self.note(|| format!("{number}: {input:?}"));
                }
                let instance = &mut self.instances[number];
                instance.comparing &= !matches!(input, Input::Stored { .. });
                instance.machine.handle(input, now);
                self.drive(number);
            }
            Task::Write { .. } => {}
        }
    }

    fn load(&mut self, number: usize, asked: Vec<(TopicPartition, bool)>) {
        let not_loaded = |database| Task::Done(Input::NotLoaded { wait: "away".into(), database });
        if self.store.away {
            return self.spawn(number, 10..3000, not_loaded(true));
        }
        if !self.reaches_kafka(number) {
            return self.spawn(number, NO_ANSWER..NO_ANSWER + 100, not_loaded(false));
        }
        // A load also reads the topics' ids.
        if self.instances[number].topics.compare(&self.kafka.ids).is_some() {
            return self.stop(number, true, 50);
        }
        let led = |key: &TopicPartition| self.kafka.ask_log(*key).is_some();
        if self.without == Some(Rule::LoadsDoNotWait) && !asked.iter().all(|(key, _)| led(key)) {
            return self.spawn(number, 500..1000, Task::Load(asked));
        }
        let (mut starts, mut changes, mut look_ups) = (Vec::new(), Vec::new(), Vec::new());
        for (key, lost) in asked {
            let known = self.store.positions.get(&key).copied();
            match decide(key, lost, known, self.kafka.ids.get(&key.topic).copied()) {
                Decision::Start(position) => starts.push((key, Start::At(position))),
                Decision::Remember(to) => changes.push((key, known, to)),
                Decision::LookUp(look_up) => look_ups.push(look_up),
            }
        }
        self.spawn(number, 1..40, Task::Store { starts, changes, look_ups: Some(look_ups) });
    }

    /// Asks each leader separately; the result is complete when all have answered.
    fn look_up(&mut self, number: usize, look_ups: Vec<LookUp>) {
        let reached = self.reaches_kafka(number);
        let (mut starts, mut changes, mut silent) = (Vec::new(), Vec::new(), !reached);
        for look_up in look_ups {
            let key = look_up.partition;
            silent |= self.kafka.logs.get(&key).is_some_and(|log| log.silent);
            match self.kafka.ask_log(key).filter(|_| reached).map(|log| decide_in_log(&look_up, log)) {
                None => starts.push((key, trouble(TroubleKind::NoLeader, "no answer"))),
                Some(Decision::Remember(to)) => changes.push((key, look_up.stored, to)),
                Some(Decision::Start(position)) => starts.push((key, Start::At(position))),
                Some(Decision::LookUp(_)) => {}
            }
        }
        let delay = if silent { NO_ANSWER..NO_ANSWER + 100 } else { 1..40 };
        self.spawn(number, delay, Task::Store { starts, changes, look_ups: None });
    }
}

fn trouble(kind: TroubleKind, text: &str) -> Start {
    Start::Wait(Trouble { kind, text: text.into() })
}

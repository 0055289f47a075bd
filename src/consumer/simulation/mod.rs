//! A simulated environment: several machines, each with a minimal driver, against a simulated Kafka and a simulated
//! database, in virtual time. Every fault and every delay is drawn from a seed, so a run can be repeated exactly.
//!
//! ```text
//! mod       -> virtual time and the schedule
//! instance  -> one instance: carries out the actions of its machine, as the driver does
//! tasks     -> its queries to database and brokers, with the decisions of `start`
//! client    -> its Kafka client, which behaves like librdkafka
//! kafka     -> topics and logs; group -> the coordinator
//! store     -> the database; checks the promises about records
//! faults    -> the injected faults
//! checks    -> the promises about time
//! traces    -> compares the client with a real librdkafka
//! ```

mod checks;
mod client;
mod dice;
mod faults;
mod group;
mod instance;
mod kafka;
mod store;
mod tasks;
mod tests;
mod traces;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use self::checks::Watch;
use self::client::Release;
use self::dice::Dice;
use self::faults::Fault;
use self::instance::Instance;
use self::kafka::Kafka;
use self::store::Store;
use self::tasks::Task;
use crate::record::{Topic, TopicPartition};

/// Virtual milliseconds since the start.
type Millis = u64;

/// The number of an instance, and the number of its current client.
type Who = (usize, u32);

const DAY: Millis = 24 * 60 * 60 * 1000;

const INSTANCES: usize = 3;

const TOPICS: [(Topic, i32); 3] =
    [(Topic::CloneReady, 3), (Topic::CloneFailed, 2), (Topic::CallLifecycle, 2)];

/// Rules of the driver that can be switched off, to prove that the simulation detects the missing rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// A partition out of range is unassigned and assigned again; without the rule: a seek.
    AssignAgain,
    /// A load waits for no partition; without the rule: for the leaders of all its partitions.
    LoadsDoNotWait,
    /// The end of a pause assigns again; without the rule: it only ends the pause.
    ResumeByAssigning,
    /// A dead client is replaced.
    ReplaceTheDead,
    /// A rebalance is answered at once; without the rule: once the positions are known.
    AnswerAtOnce,
    /// The ends of partitions are used.
    UseEnds,
}

/// Scheduled occurrences.
enum Happening {
    /// A machine's timeout.
    Wake(Who),
    Fetch(Who),
    /// The periodic work, every two seconds.
    Look(Who),
    Task(Who, Task),
    /// A process or a new client starts.
    Start(usize),
    /// The coordinator runs.
    Group,
    Produce,
    Begin(Fault),
    End(Fault),
    /// The promises are checked.
    Check,
}

struct World {
    dice: Dice,
    now: Millis,
    epoch: Instant,
    due: BinaryHeap<Reverse<(Millis, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    happened: u64,
    kafka: Kafka,
    store: Store,
    instances: Vec<Instance>,
    group_is_due: bool,
    /// The rule that is switched off.
    without: Option<Rule>,
    watch: Watch,
    /// Time at which traffic ends.
    traffic_ends: Millis,
    /// Time after which no fault begins.
    calm: Millis,
    /// The last events, kept only in the second run of a failed seed.
    events: Option<VecDeque<String>>,
}

impl World {
    fn new(seed: u64, without: Option<Rule>, keep_events: bool) -> World {
        World {
            dice: Dice::new(seed),
            now: 0,
            epoch: Instant::now(),
            due: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            happened: 0,
            kafka: Kafka::new(&TOPICS),
            store: Store::default(),
            instances: (0..INSTANCES).map(Instance::new).collect(),
            group_is_due: false,
            without,
            watch: Watch::default(),
            traffic_ends: 0,
            calm: 0,
            events: keep_events.then(VecDeque::new),
        }
    }

    /// Simulates a day. The error names the broken promise.
    fn live_a_day(&mut self) -> Result<(), String> {
        for number in 0..INSTANCES {
            let at = self.now + self.dice.within(0..3000);
            self.at(at, Happening::Start(number));
        }
        while self.now < DAY {
            self.plan();
            self.go_through()?;
            self.rest();
        }
        Ok(())
    }

    /// Runs traffic and faults until everything has settled.
    fn go_through(&mut self) -> Result<(), String> {
        let (began, before) = (self.now, self.happened);
        let mut checked = self.happened;
        loop {
            if self.happened - checked > 100_000 {
                return Err("something is done over and over again".into());
            }
            let Some(Reverse((at, number))) = self.due.pop() else { return Err("nothing is due".into()) };
            let Some(happening) = self.happenings.remove(&number) else { continue };
            self.now = at;
            let check = matches!(happening, Happening::Check);
            self.happen(happening);
            if let Some(broken) = self.store.broken.take() {
                return Err(broken);
            }
            if !check {
                continue;
            }
            checked = self.happened;
            self.check_the_others();
            let seconds = (self.now - began) / 1000 + 1;
            if (self.happened - before) / seconds > 5000 {
                return Err("something is done over and over again".into());
            }
            if self.now >= self.calm {
                match self.unsettled() {
                    None => return Ok(()),
                    Some(why) if self.now > self.calm + checks::SETTLED_WITHIN => return Err(why),
                    Some(_) => {}
                }
            }
            self.after(900..1100, Happening::Check);
        }
    }

    /// Skips hours in which only the periodic work runs, which changes nothing.
    fn rest(&mut self) {
        self.due.clear();
        self.happenings.clear();
        self.group_is_due = false;
        self.watch.rested();
        self.now += self.dice.within(2..6) * 60 * 60 * 1000;
        for number in 0..self.instances.len() {
            self.instances[number].rested();
            let who = self.instances[number].who;
            let at = self.now + self.dice.within(0..2000);
            self.at(at, Happening::Look(who));
        }
        for member in self.kafka.group.members.values_mut() {
            member.heard = self.now;
        }
    }

    fn at(&mut self, when: Millis, happening: Happening) {
        self.happened += 1;
        self.due.push(Reverse((when, self.happened)));
        self.happenings.insert(self.happened, happening);
    }

    /// Schedules an occurrence after a delay within this range of milliseconds.
    fn after(&mut self, delay: std::ops::Range<u64>, happening: Happening) {
        let when = self.now + self.dice.within(delay);
        self.at(when, happening);
    }

    fn instant(&self) -> Instant {
        self.epoch + Duration::from_millis(self.now)
    }

    fn note(&mut self, event: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(events) = &mut self.events {
            events.push_back(format!("{:>12.3} s  {}", now as f64 / 1000.0, event()));
            if events.len() > 400 {
                events.pop_front();
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake(who) => self.wake(who),
            Happening::Fetch(who) => self.fetch(who),
            Happening::Look(who) => self.look(who),
            Happening::Task(who, task) => self.task(who, task),
            Happening::Start(number) => self.start(number),
            Happening::Group => self.coordinate(),
            Happening::Produce => self.produce(),
            Happening::Begin(fault) => self.begin(fault),
            Happening::End(fault) => self.end(fault),
            Happening::Check => {}
        }
    }

    fn produce(&mut self) {
        let keys: Vec<TopicPartition> =
            self.kafka.logs.iter().filter(|(_, log)| log.is_served()).map(|(key, _)| *key).collect();
        if !keys.is_empty() && !self.kafka.away {
            let key = self.dice.pick(&keys);
            // A burst fills a batch.
            let count = if self.dice.chance(5) { 20..80 } else { 1..8 };
            for _ in 0..self.dice.within(count) {
                let record = self.dice.chance(85);
                let log = self.kafka.logs.get_mut(&key).expect("a log");
                log.entries.push(record);
            }
            self.note(|| format!("{key}: records are produced"));
            self.fetch_all();
        }
        if self.now < self.traffic_ends {
            self.after(20..1200, Happening::Produce);
        }
    }

    fn fetch_all(&mut self) {
        (0..self.instances.len()).for_each(|number| self.fetch_soon(number));
    }

    /// Schedules the coordinator.
    fn coordinate_soon(&mut self) {
        if !std::mem::replace(&mut self.group_is_due, true) {
            self.after(50..600, Happening::Group);
        }
    }

    /// Handles heartbeats, sessions and rebalances.
    fn coordinate(&mut self) {
        self.group_is_due = false;
        if self.kafka.away {
            return;
        }
        let now = self.now;
        let mut again = false;
        for number in 0..self.instances.len() {
            again |= self.heartbeat(number);
        }
        let group = &mut self.kafka.group;
        let before = group.members.len();
        group.members.retain(|(number, _), member| {
            *number >= INSTANCES || member.heard + group::SESSION_TIMEOUT > now
        });
        group.changed |= before != group.members.len();
        let silent =
            group.members.iter().any(|((number, _), member)| *number < INSTANCES && member.heard < now);
        let busy = self.instances.iter().any(|instance| instance.client.unanswered.is_some());
        if self.kafka.group.changed && !silent && !busy {
            self.rebalance();
        }
        if again || silent || busy || self.kafka.group.changed {
            self.coordinate_soon();
        }
    }

    fn rebalance(&mut self) {
        let partitions = self.kafka.partitions();
        let now = self.now;
        for change in self.kafka.group.rebalance(&partitions) {
            change
                .revoked
                .iter()
                .chain(&change.added)
                .for_each(|key| self.watch.excuse(*key, now + checks::MOVED));
            let number = change.member.0;
            let Some(instance) = self.instances.get_mut(number).filter(|it| it.who == change.member) else {
                continue;
            };
            if change.revoked.is_empty() {
                instance.client.give(change.added.clone(), now);
            } else {
                let release =
                    Release { partitions: change.revoked.clone(), then: Some(change.added.clone()) };
                instance.client.take_away(release, false, now);
            }
            let names =
                |keys: &[TopicPartition]| keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            self.note(|| {
                format!(
                    "{number}: group gives [{}], takes [{}]",
                    names(&change.added),
                    names(&change.revoked)
                )
            });
            self.drive(number);
        }
    }

    /// Handles the answer to a revocation.
    fn released(&mut self, number: usize, release: Release) {
        let now = self.now;
        let instance = &mut self.instances[number];
        if let Some(member) = self.kafka.group.members.get_mut(&instance.who) {
            member.owned.retain(|key| !release.partitions.contains(key));
            self.kafka.group.changed = true;
        }
        if let Some(then) = release.then {
            instance.client.give(then, now);
        }
        self.coordinate_soon();
    }
}

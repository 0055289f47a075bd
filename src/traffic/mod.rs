//! Simulated traffic: the events of a service that clones its callers' voices, call after call. A scenario produces the
//! same records, byte for byte, on every machine; hence only integers, exactly rounded arithmetic (no logarithms) and a
//! generator with a fixed definition (ChaCha8).
//!
//! Every phone number lies in a range that its country reserves for fiction.
//!
//! ```text
//! call ──> events of the call ──> records ──> queue by time of sending ──> output
//!                                    └─ disorder: late, duplicated, corrected, unusable
//! ```

mod calls;
mod defects;
mod dice;
mod event;
mod people;
mod rhythm;
mod words;

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use self::defects::{DEFECTS, fields};
use self::dice::Dice;
use self::event::{Envelope, Occurrence};
use self::rhythm::Rhythm;
use crate::record::{Outgoing, Topic};

/// The parameters of simulated traffic.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Number of calls, with about five records each.
    pub calls: u64,
    /// The seed of callers and calls.
    pub seed: u64,
    /// Whether some records are late, duplicated, corrected or unusable. The calls are the same either way.
    pub disorder: bool,
    /// The start of the first call, in milliseconds since 1970.
    pub start: i64,
    /// Mean time between the starts of two calls, in milliseconds.
    pub spacing_ms: i64,
    /// `ttl_seconds` of every second clone, to demonstrate expiry; `None` leaves all clones to `CACHE_TTL`.
    pub ttl_seconds: Option<i32>,
}

/// A record, and its defect if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The record. Its timestamp is the time of sending.
    pub record: Outgoing,
    /// The reason of the dead letter that it must become (contract, section 6); `None` if it is usable.
    pub unusable: Option<&'static str>,
}

/// Returns the records of a plausible service, in the order of sending.
pub fn traffic(scenario: &Scenario) -> impl Iterator<Item = Sent> + use<> {
    Traffic::new(scenario.clone(), None)
}

/// Returns records over days and nights, from the scenario's start to `end` (milliseconds since 1970): more calls by
/// day than by night and on weekdays than at weekends, some long ones, and one bad hour of the voice API. Ignores the
/// scenario's spacing. Events end by `end`, except for the last 16 minutes of calls that start close to it.
pub fn traffic_over_days(scenario: &Scenario, end: i64) -> impl Iterator<Item = Sent> + use<> {
    let rhythm = Rhythm::new(
        scenario.seed,
        scenario.calls,
        scenario.start.clamp(0, LATEST_START),
        end.min(LATEST_START),
    );
    Traffic::new(scenario.clone(), Some(rhythm))
}

/// Maximum number of records that wait for their time; beyond it the earliest is sent ahead of time.
const WINDOW: usize = 16_384;
/// Maximum number of callers, each with a number of its own.
const CALLERS: u64 = 1 << 14;
/// In the year 8307, well before the last valid event time.
const LATEST_START: i64 = 200_000_000_000_000;
/// Lifetime of a voice without `ttl_seconds` in the service: the default of `CACHE_TTL`.
const DAY_MS: i64 = 86_400_000;

struct Traffic {
    scenario: Scenario,
    /// Choices about the calls.
    dice: Dice,
    /// Choices about disorder, separate so that the calls are the same without it.
    trouble: Dice,
    /// The starts of calls; `None` to use the scenario's spacing.
    rhythm: Option<Rhythm>,
    first_caller: u64,
    calls_left: u64,
    next_call: i64,
    callers: HashMap<u64, Caller>,
    /// Records by time of sending, then by order of creation.
    waiting: BTreeMap<(i64, u64), Sent>,
    made: u64,
    last_sent: i64,
    spoiled: usize,
}

/// The service's state of a caller.
#[derive(Default)]
struct Caller {
    voice: Option<ClonedVoice>,
    mapped: bool,
}

#[derive(Clone)]
struct ClonedVoice {
    id: String,
    ready: i64,
    expires: i64,
}

impl Iterator for Traffic {
    type Item = Sent;

    fn next(&mut self) -> Option<Sent> {
        // All records of a call are sent after its start, so records due before the next start can be sent.
        while self.calls_left > 0
            && self.waiting.len() < WINDOW
            && self.waiting.first_key_value().is_none_or(|((due, _), _)| *due >= self.next_call)
        {
            self.calls_left -= 1;
            self.call();
        }
        let ((due, _), mut sent) = self.waiting.pop_first()?;
        self.last_sent = self.last_sent.max(due);
        sent.record.timestamp = Some(self.last_sent);
        Some(sent)
    }
}

impl Traffic {
    fn new(scenario: Scenario, mut rhythm: Option<Rhythm>) -> Traffic {
        let mut dice = Dice::new(scenario.seed, 0);
        let start = scenario.start.clamp(0, LATEST_START);
        let start = rhythm.as_mut().map_or(start, Rhythm::next_start);
        Traffic {
            rhythm,
            trouble: Dice::new(scenario.seed, 1),
            first_caller: dice.below(CALLERS),
            dice,
            calls_left: scenario.calls,
            next_call: start,
            callers: HashMap::new(),
            waiting: BTreeMap::new(),
            made: 0,
            last_sent: start,
            spoiled: 0,
            scenario,
        }
    }

    /// Creates an event's records: one, and with disorder perhaps more. `at` is in milliseconds.
    fn emit(&mut self, topic: Topic, key: &str, at: i64, body: Value) {
        let Value::Object(body) = body else { return };
        let at = at * 1000 + if self.dice.chance(300) { self.dice.range(0, 999) } else { 0 };
        let mut event = Occurrence { topic, key: key.to_owned(), at, body };
        let envelope = match self.dice.below(10) {
            0 => Envelope::Structured,
            1 => Envelope::Binary,
            _ => Envelope::Bare,
        };
        let late = self.scenario.disorder && self.trouble.chance(50);
        let (time, timed) = (self.dice.time(at), self.dice.chance(900));
        // The time of a failure is part of its identity, and a late event would otherwise get the time of sending.
        if timed || late || topic == Topic::CloneFailed {
            event.body.insert(fields(topic).0.to_owned(), time);
        }
        let record = event.record(&mut self.dice, envelope, topic.name());
        let mut due = at / 1000 + self.dice.range(2, 250);
        if self.scenario.disorder {
            due += if late { self.trouble.delay() } else { 0 };
            self.disturb(&event, &record, due);
        }
        self.send(due, record, None);
    }

    /// Adds disorder to a record that is sent at `due`.
    fn disturb(&mut self, event: &Occurrence, record: &Outgoing, due: i64) {
        if self.trouble.chance(30) {
            let again = due + self.trouble.delay();
            self.send(again, record.clone(), None);
        }
        if self.trouble.chance(15) {
            let again = due + self.trouble.delay();
            let corrected = event.corrected(&mut self.trouble);
            self.send(again, corrected, None);
        }
        // Few fields of a delete are read, so not every defect would make it unusable.
        if self.trouble.chance(10) && !event.body.contains_key("deleted") {
            let (reason, defects) = DEFECTS.get(self.spoiled % DEFECTS.len()).copied().unwrap_or_default();
            self.spoiled += 1;
            let spoiled = event.spoiled(&mut self.trouble, reason, defects);
            self.send(due, spoiled, Some(reason));
        }
    }

    fn send(&mut self, due: i64, record: Outgoing, unusable: Option<&'static str>) {
        self.made += 1;
        self.waiting.insert((due, self.made), Sent { record, unusable });
    }
}

#[cfg(test)]
mod tests;

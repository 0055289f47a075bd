//! Random sequences of events against the promises of the machine.

use proptest::prelude::*;

use super::*;

/// A step of a random sequence.
#[derive(Clone, Copy, Debug)]
enum RandomStep {
    Assign(i32),
    Revoke(i32),
    Push(i32, u8),
    End(i32),
    OutOfRange(i32),
    Unreadable(i32),
    FinishLoad(u8),
    FinishWrite(u8, u8),
    Compare,
    Pass(u16),
}

fn step() -> impl Strategy<Value = RandomStep> {
    let partition = 0..4_i32;
    prop_oneof![
        2 => partition.clone().prop_map(RandomStep::Assign),
        1 => partition.clone().prop_map(RandomStep::Revoke),
        8 => (partition.clone(), 1..8_u8).prop_map(|(partition, count)| RandomStep::Push(partition, count)),
        2 => partition.clone().prop_map(RandomStep::End),
        1 => partition.clone().prop_map(RandomStep::OutOfRange),
        1 => partition.prop_map(RandomStep::Unreadable),
        6 => any::<u8>().prop_map(RandomStep::FinishLoad),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(which, how)| RandomStep::FinishWrite(which, how)),
        1 => Just(RandomStep::Compare),
        4 => (0..3000_u16).prop_map(RandomStep::Pass),
    ]
}

/// The environment of the machine: a log without end, a database, and the work in flight.
struct World {
    machine: Machine,
    now: Instant,
    /// The next offset of each partition that the client hands out; `None` while it is not read.
    reading: BTreeMap<TopicPartition, i64>,
    owned: BTreeSet<TopicPartition>,
    stored: BTreeMap<TopicPartition, i64>,
    loads: Vec<Vec<TopicPartition>>,
    writes: Vec<(WriteId, Effort, Batch)>,
    /// Partitions whose last write was fenced: they must be loaded before the next write.
    fenced: BTreeSet<TopicPartition>,
}

impl World {
    fn new() -> World {
        World {
            machine: Machine::new(LIMITS),
            now: Instant::now(),
            reading: BTreeMap::new(),
            owned: BTreeSet::new(),
            stored: BTreeMap::new(),
            loads: Vec::new(),
            writes: Vec::new(),
            fenced: BTreeSet::new(),
        }
    }

    fn handle(&mut self, input: Input) {
        self.machine.handle(input, self.now);
    }

    fn take(&mut self, step: RandomStep) {
        match step {
            RandomStep::Assign(partition) => {
                if self.owned.insert(key(partition)) {
                    self.handle(Input::Assigned(vec![key(partition)]));
                }
            }
            RandomStep::Revoke(partition) => {
                if self.owned.remove(&key(partition)) {
                    self.reading.remove(&key(partition));
                    self.handle(Input::Revoked(vec![key(partition)]));
                }
            }
            RandomStep::Push(partition, count) => {
                for _ in 0..count {
                    if self.machine.wants_records()
                        && let Some(next) = self.reading.get_mut(&key(partition))
                    {
                        self.machine.push(record(partition, *next), self.now);
                        *next += 1;
                    }
                }
            }
            RandomStep::End(partition) => {
                if let Some(next) = self.reading.get_mut(&key(partition)) {
                    *next += 1; // a marker
                    let offset = *next;
                    self.handle(Input::EndOfPartition { partition: key(partition), offset });
                }
            }
            RandomStep::OutOfRange(partition) => self.handle(Input::OffsetOutOfRange(key(partition))),
            RandomStep::Unreadable(partition) => {
                let reason = "unreadable".to_owned();
                self.handle(Input::Unreadable { partition: key(partition), offset: None, reason });
            }
            RandomStep::FinishLoad(how) => self.finish_load(how),
            RandomStep::FinishWrite(which, how) => self.finish_write(which, how),
            RandomStep::Compare => {
                let asked = self.machine.positions();
                let stored = self.stored.iter().map(|(key, offset)| (*key, at(*offset))).collect();
                self.handle(Input::Stored { asked, stored, paused: BTreeSet::new() });
            }
            RandomStep::Pass(millis) => self.now += Duration::from_millis(u64::from(millis)),
        }
        self.act();
    }

    fn finish_load(&mut self, how: u8) {
        if self.loads.is_empty() {
            return;
        }
        let keys = self.loads.remove(0);
        if how.is_multiple_of(5) {
            self.handle(Input::NotLoaded { wait: "away".into(), database: how.is_multiple_of(2) });
            return;
        }
        let mut starts = Vec::new();
        for key in keys {
            self.fenced.remove(&key);
            starts.push((key, Start::At(at(*self.stored.entry(key).or_insert(0)))));
        }
        self.handle(Input::Loaded { starts, look_ups: Vec::new() });
    }

    /// Ends a write: `how` decides for each partition whether it lands, is fenced, or waits for something.
    fn finish_write(&mut self, which: u8, how: u8) {
        if self.writes.is_empty() {
            return;
        }
        let (id, _, batch) = self.writes.remove(usize::from(which) % self.writes.len());
        let mut outcomes = BTreeMap::new();
        let mut remaining = Vec::new();
        let database_away = how.is_multiple_of(7);
        for (number, (key, span)) in batch.spans.iter().enumerate() {
            let own: Vec<Record> =
                batch.records.iter().filter(|record| record.topic_partition() == *key).cloned().collect();
            let kinds = [WaitKind::Suspects, WaitKind::Drift, WaitKind::Other];
            let turn = usize::from(how) + number;
            let outcome = if database_away {
                remaining.extend(own);
                waits(span.from.next_offset, WaitKind::Database)
            } else if self.stored.get(key) != Some(&span.from.next_offset) {
                self.fenced.insert(*key);
                Outcome::Fenced
            } else if turn.is_multiple_of(4) && !own.is_empty() {
                let (first, rest) = own.split_at(own.len() / 2);
                let landed = first.last().map_or(span.from.next_offset, |last| last.offset + 1);
                self.stored.insert(*key, landed);
                remaining.extend(rest.to_vec());
                waits(landed, kinds[turn % 3])
            } else {
                self.stored.insert(*key, span.to_offset);
                Outcome::Landed(at(span.to_offset))
            };
            outcomes.insert(*key, outcome);
        }
        self.handle(Input::Written {
            id,
            report: BatchReport { outcomes, remaining, ..BatchReport::default() },
        });
    }

    /// Carries out the machine's actions, and checks its promises.
    fn act(&mut self) {
        let mut polls = 0;
        while let Some(action) = self.machine.poll(self.now) {
            polls += 1;
            assert!(polls < 100, "polled for ever");
            match action {
                Action::Load(asked) => {
                    assert!(self.loads.is_empty(), "one load at a time");
                    self.loads.push(asked.into_iter().map(|(key, _)| key).collect());
                }
                Action::Read(offsets) => {
                    for (key, offset) in offsets {
                        assert!(self.owned.contains(&key), "a partition of another is read");
                        assert!(self.reading.insert(key, offset).is_none(), "{key} is read twice");
                    }
                }
                Action::StopReading(keys) => keys.iter().for_each(|key| {
                    self.reading.remove(key);
                }),
                Action::Write { id, effort, batch } => self.check_write(id, effort, batch),
                Action::LookUp(_) | Action::Pause(_) | Action::Resume(_) | Action::Report(_) => {}
            }
        }
        if let Some(timeout) = self.machine.next_timeout(self.now) {
            assert!(timeout > self.now, "a timeout that has passed would be polled for ever");
        }
        let held: usize = self.machine.partitions.values().map(|partition| partition.held_bytes()).sum();
        assert!(held <= 4 * 2 * 10 * record(0, 0).size(), "{held} bytes are held");
    }

    fn check_write(&mut self, id: WriteId, effort: Effort, batch: Batch) {
        let mut next: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        for record in &batch.records {
            let span = batch.spans.get(&record.topic_partition()).expect("a span for each partition");
            let least = next.entry(record.topic_partition()).or_insert(span.from.next_offset);
            assert!(record.offset >= *least, "records go back");
            *least = record.offset + 1;
            assert!(span.to_offset > record.offset);
        }
        for (key, span) in &batch.spans {
            assert!(self.owned.contains(key), "{key} was revoked and is written");
            assert!(!self.fenced.contains(key), "{key} is written after a fence without a load");
            assert!(span.to_offset > span.from.next_offset);
            let twice = self.writes.iter().any(|(_, _, other)| other.spans.contains_key(key));
            assert!(!twice, "{key} is in two writes");
        }
        if effort == Effort::Thorough {
            assert_eq!(batch.spans.len(), 1);
        }
        self.writes.push((id, effort, batch));
    }

    /// Lets everything succeed; after that every partition of this member must be read again.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.now += Duration::from_secs(11);
            self.act();
            self.finish_load(1);
            self.act();
            while !self.writes.is_empty() {
                self.take(RandomStep::FinishWrite(0, 1));
                self.take(RandomStep::FinishWrite(0, 2));
            }
        }
        let reading: BTreeSet<TopicPartition> = self.reading.keys().copied().collect();
        assert_eq!(reading, self.owned, "partitions that nothing holds up are not read");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_keeps_its_promises_in_any_sequence_of_events(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.take(step));
        world.settle();
    }
}

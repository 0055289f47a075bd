//! Tests of the machine alone: one for each transition, and random sequences of events checked against its promises.

mod pauses;
mod random;
mod retries;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::*;
use crate::ingest::outcome::{Outcome, Wait, WaitKind};
use crate::record::Record;

const LIMITS: BatchLimits = BatchLimits { records: 10, bytes: 1 << 20, wait: Duration::from_millis(20) };

fn key(partition: i32) -> TopicPartition {
    TopicPartition::new(Topic::CloneReady, partition)
}

fn at(next_offset: i64) -> Position {
    Position::at(next_offset, None)
}

fn record(partition: i32, offset: i64) -> Record {
    Record {
        topic: Topic::CloneReady,
        partition,
        offset,
        timestamp: 0,
        key: None,
        value: Some(vec![0; 10]),
        headers: Vec::new(),
    }
}

/// A machine with a clock.
struct Bench {
    machine: Machine,
    now: Instant,
}

impl Bench {
    fn new() -> Bench {
        Bench { machine: Machine::new(LIMITS), now: Instant::now() }
    }

    /// A machine with these partitions, each read from its stored position.
    fn consuming(positions: &[(i32, i64)]) -> Bench {
        let mut bench = Bench::new();
        let keys: Vec<TopicPartition> = positions.iter().map(|(partition, _)| key(*partition)).collect();
        bench.handle(Input::Assigned(keys.clone()));
        let expected: Vec<_> = keys.iter().map(|key| (*key, false)).collect();
        assert!(matches!(bench.act(), Some(Action::Load(asked)) if asked == expected));
        let starts = positions.iter().map(|(partition, offset)| (key(*partition), Start::At(at(*offset))));
        bench.handle(Input::Loaded { starts: starts.collect(), look_ups: Vec::new() });
        let read: Vec<_> = positions.iter().map(|(partition, offset)| (key(*partition), *offset)).collect();
        assert!(matches!(bench.act(), Some(Action::Read(offsets)) if offsets == read));
        bench.idle();
        bench
    }

    fn handle(&mut self, input: Input) {
        self.machine.handle(input, self.now);
    }

    fn push(&mut self, partition: i32, offsets: std::ops::Range<i64>) {
        offsets.for_each(|offset| self.machine.push(record(partition, offset), self.now));
    }

    fn act(&mut self) -> Option<Action> {
        self.machine.poll(self.now)
    }

    fn idle(&mut self) {
        let action = self.act();
        assert!(action.is_none(), "{action:?}");
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Returns the next action, which must be a write.
    fn write(&mut self) -> (WriteId, Effort, Batch) {
        match self.act() {
            Some(Action::Write { id, effort, batch }) => (id, effort, batch),
            other => panic!("{other:?}"),
        }
    }

    fn written(&mut self, id: WriteId, outcomes: &[(i32, Outcome)], remaining: Vec<Record>) {
        let outcomes =
            outcomes.iter().map(|(partition, outcome)| (key(*partition), outcome.clone())).collect();
        self.handle(Input::Written {
            id,
            report: BatchReport { outcomes, remaining, ..BatchReport::default() },
        });
    }

    /// Writes the buffered records and lets them land.
    fn land(&mut self) -> Batch {
        self.pass(LIMITS.wait);
        let (id, _, batch) = self.write();
        let landed = |(key, span): (&TopicPartition, &crate::ingest::outcome::OffsetSpan)| {
            (key.partition, Outcome::Landed(Position { next_offset: span.to_offset, ..span.from }))
        };
        let outcomes: Vec<_> = batch.spans.iter().map(landed).collect();
        self.written(id, &outcomes, Vec::new());
        batch
    }
}

fn waits(landed: i64, kind: WaitKind) -> Outcome {
    Outcome::Waits { landed: at(landed), wait: Wait { kind, text: "why".into() } }
}

fn offsets(batch: &Batch) -> Vec<(i32, i64)> {
    batch.records.iter().map(|record| (record.partition, record.offset)).collect()
}

#[test]
fn records_are_written_when_the_lane_has_waited_long_enough_or_is_full() {
    let mut bench = Bench::consuming(&[(0, 5)]);
    bench.push(0, 5..7);
    bench.idle();
    assert_eq!(bench.machine.next_timeout(bench.now), Some(bench.now + LIMITS.wait));
    let batch = bench.land();
    assert_eq!(offsets(&batch), [(0, 5), (0, 6)]);
    assert_eq!(batch.spans[&key(0)].from, at(5));
    assert_eq!(batch.spans[&key(0)].to_offset, 7);
    bench.push(0, 7..17);
    let (_, effort, batch) = bench.write();
    assert_eq!((effort, batch.records.len()), (Effort::Once, 10));
    assert_eq!(batch.spans[&key(0)].from, at(7));
}

#[test]
fn without_a_wait_an_idle_lane_writes_at_once_and_the_next_batch_gathers_meanwhile() {
    let mut bench = Bench::consuming(&[(0, 5)]);
    bench.machine.limits.wait = Duration::ZERO;
    bench.push(0, 5..6);
    let (id, _, batch) = bench.write();
    assert_eq!(offsets(&batch), [(0, 5)]);
    bench.push(0, 6..7);
    bench.push(0, 7..8);
    bench.idle();
    bench.written(id, &[(0, Outcome::Landed(at(6)))], Vec::new());
    let (_, _, batch) = bench.write();
    assert_eq!(offsets(&batch), [(0, 6), (0, 7)]);
}

#[test]
fn records_that_were_pushed_before_or_belong_to_nobody_are_ignored() {
    let mut bench = Bench::consuming(&[(0, 5)]);
    bench.push(0, 3..6);
    bench.push(0, 5..6);
    bench.push(2, 0..3);
    assert_eq!(offsets(&bench.land()), [(0, 5)]);
}

#[test]
fn offsets_without_a_record_are_stored_with_the_next_batch_or_by_themselves() {
    let mut bench = Bench::consuming(&[(0, 5)]);
    bench.push(0, 5..6);
    bench.handle(Input::EndOfPartition { partition: key(0), offset: 8 });
    assert_eq!(bench.land().spans[&key(0)].to_offset, 8);
    bench.handle(Input::EndOfPartition { partition: key(0), offset: 8 });
    bench.pass(Duration::from_secs(1));
    bench.idle();
    bench.handle(Input::EndOfPartition { partition: key(0), offset: 9 });
    bench.pass(Duration::from_secs(1));
    let (_, _, batch) = bench.write();
    assert_eq!((batch.records.len(), batch.spans[&key(0)].to_offset), (0, 9));
}

#[test]
fn a_partition_whose_offset_is_out_of_range_starts_again_while_the_others_go_on() {
    let mut bench = Bench::consuming(&[(0, 5), (2, 5)]);
    bench.push(0, 5..6);
    bench.push(2, 5..6);
    bench.handle(Input::OffsetOutOfRange(key(0)));
    assert!(matches!(bench.act(), Some(Action::StopReading(keys)) if keys == [key(0)]));
    assert!(matches!(bench.act(), Some(Action::Load(asked)) if asked == [(key(0), true)]));
    assert_eq!(offsets(&bench.land()), [(2, 5)]);
    let look_up = LookUp { partition: key(0), stored: Some(at(5)), to: at(0) };
    bench.handle(Input::Loaded { starts: Vec::new(), look_ups: vec![look_up.clone()] });
    assert!(matches!(bench.act(), Some(Action::LookUp(look_ups)) if look_ups == [look_up]));
    bench.handle(Input::LookedUp(vec![(key(0), Start::At(at(100)))]));
    assert!(matches!(bench.act(), Some(Action::Read(offsets)) if offsets == [(key(0), 100)]));
}

#[test]
fn a_partition_that_cannot_start_is_tried_again_after_a_growing_pause() {
    let mut bench = Bench::new();
    bench.handle(Input::Assigned(vec![key(0)]));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert!(matches!(bench.act(), Some(Action::Load(_))));
        let trouble = Trouble { kind: TroubleKind::NoLeader, text: "no broker leads it".into() };
        bench.handle(Input::Loaded { starts: vec![(key(0), Start::Wait(trouble))], look_ups: Vec::new() });
        bench.idle();
        let due = bench.machine.next_timeout(bench.now).unwrap();
        pauses.push(due - bench.now);
        bench.now = due;
    }
    assert!(pauses[0] < Duration::from_millis(250) && pauses[7] >= Duration::from_secs(5), "{pauses:?}");
}

#[test]
fn an_unreadable_partition_waits_alone_and_what_came_before_is_written() {
    let mut bench = Bench::consuming(&[(0, 5), (2, 5)]);
    bench.push(0, 5..7);
    let reason = "decompression failed".to_owned();
    bench.handle(Input::Unreadable { partition: key(0), offset: Some(7), reason });
    let (id, _, batch) = bench.write();
    assert_eq!(offsets(&batch), [(0, 5), (0, 6)]);
    assert!(matches!(bench.act(), Some(Action::StopReading(keys)) if keys == [key(0)]));
    bench.idle();
    let trouble = bench.machine.view().next().unwrap().trouble.unwrap().clone();
    assert!(trouble.text.starts_with("offset 7 cannot be read: decompression failed"), "{}", trouble.text);
    assert!(trouble.text.contains("skip --topic"), "{}", trouble.text);
    bench.written(id, &[(0, Outcome::Landed(at(7)))], Vec::new());
    bench.pass(Duration::from_secs(1));
    assert!(matches!(bench.act(), Some(Action::Load(asked)) if asked == [(key(0), false)]));
}

#[test]
fn a_fenced_partition_reads_its_position_before_its_next_write() {
    let mut bench = Bench::consuming(&[(0, 5), (2, 5)]);
    bench.push(0, 5..6);
    bench.push(2, 5..6);
    bench.pass(LIMITS.wait);
    let (id, _, _) = bench.write();
    bench.push(0, 6..7);
    bench.push(2, 6..7);
    bench.written(id, &[(0, Outcome::Fenced), (2, Outcome::Landed(at(6)))], Vec::new());
    assert!(matches!(bench.act(), Some(Action::Report(Notice::Fenced(fenced))) if fenced == key(0)));
    assert!(matches!(bench.act(), Some(Action::StopReading(keys)) if keys == [key(0)]));
    assert!(matches!(bench.act(), Some(Action::Load(asked)) if asked == [(key(0), false)]));
    assert_eq!(offsets(&bench.land()), [(2, 6)]);
}

#[test]
fn a_batch_that_meets_an_outage_is_kept_whole_and_retried_after_a_pause() {
    let mut bench = Bench::consuming(&[(0, 5), (1, 5)]);
    bench.push(0, 5..7);
    bench.pass(LIMITS.wait);
    let (id, _, batch) = bench.write();
    bench.push(0, 7..8);
    bench.written(id, &[(0, waits(5, WaitKind::Database))], batch.records);
    assert!(matches!(bench.act(), Some(Action::Report(Notice::DatabaseFailed { held: 3, .. }))));
    bench.push(1, 5..6);
    bench.idle();
    assert!(bench.machine.database_is_away());
    bench.now = bench.machine.next_timeout(bench.now).unwrap();
    let (id, _, batch) = bench.write();
    assert_eq!(offsets(&batch), [(0, 5), (0, 6), (0, 7)]);
    let (other, _, batch) = bench.write();
    assert_eq!(offsets(&batch), [(1, 5)]);
    bench.written(id, &[(0, Outcome::Landed(at(8)))], Vec::new());
    assert!(matches!(bench.act(), Some(Action::Report(Notice::DatabaseWorks))));
    bench.written(other, &[(1, Outcome::Landed(at(6)))], Vec::new());
    bench.idle();
}

#[test]
fn records_under_suspicion_are_written_alone_and_thoroughly_at_once() {
    let mut bench = Bench::consuming(&[(0, 5), (2, 5)]);
    bench.push(0, 5..7);
    bench.push(2, 5..6);
    bench.pass(LIMITS.wait);
    let (id, _, mut batch) = bench.write();
    batch.records.retain(|record| record.partition == 0);
    bench.push(0, 7..8);
    bench.written(id, &[(0, waits(5, WaitKind::Suspects)), (2, Outcome::Landed(at(6)))], batch.records);
    assert!(matches!(bench.act(), Some(Action::StopReading(keys)) if keys == [key(0)]));
    let (single, effort, batch) = bench.write();
    assert_eq!((effort, offsets(&batch)), (Effort::Thorough, vec![(0, 5), (0, 6)]));
    // The lane is free for the other partition meanwhile.
    bench.push(2, 6..7);
    assert_eq!(offsets(&bench.land()), [(2, 6)]);
    bench.written(single, &[(0, Outcome::Landed(at(7)))], Vec::new());
    assert!(matches!(bench.act(), Some(Action::Read(offsets)) if offsets == [(key(0), 7)]));
}

#[test]
fn records_of_a_table_that_drifted_wait_with_growing_pauses_and_are_kept() {
    let mut bench = Bench::consuming(&[(0, 5)]);
    bench.push(0, 5..7);
    bench.pass(LIMITS.wait);
    let (id, _, batch) = bench.write();
    bench.written(id, &[(0, waits(5, WaitKind::Drift))], batch.records);
    assert!(matches!(bench.act(), Some(Action::StopReading(_))));
    bench.idle();
    assert_eq!(bench.machine.view().next().unwrap().trouble.unwrap().kind, TroubleKind::Drift);
    bench.pass(Duration::from_millis(200));
    let (id, _, batch) = bench.write();
    assert_eq!(offsets(&batch), [(0, 5), (0, 6)]);
    // A part landed.
    let rest = batch.records.into_iter().skip(1).collect();
    bench.written(id, &[(0, waits(6, WaitKind::Drift))], rest);
    bench.pass(Duration::from_millis(400));
    let (id, _, batch) = bench.write();
    assert_eq!((batch.spans[&key(0)].from, offsets(&batch)), (at(6), vec![(0, 6)]));
    bench.written(id, &[(0, Outcome::Landed(at(7)))], Vec::new());
    assert!(matches!(bench.act(), Some(Action::Read(_))));
    assert!(bench.machine.view().next().unwrap().trouble.is_none());
}

#[test]
fn a_partition_stops_at_its_limit_and_goes_on_once_accepted() {
    let stopped = Position { dead_in_a_row: 9, stopped: true, ..at(7) };
    let mut bench = Bench::consuming(&[(0, 5), (2, 5)]);
    bench.push(0, 5..7);
    bench.pass(LIMITS.wait);
    let (id, _, _) = bench.write();
    bench.written(id, &[(0, Outcome::Landed(stopped))], Vec::new());
    assert!(matches!(bench.act(), Some(Action::StopReading(keys)) if keys == [key(0)]));
    assert!(matches!(bench.act(), Some(Action::Report(Notice::Stopped { .. }))));
    bench.push(0, 7..8);
    bench.push(2, 5..6);
    assert_eq!(offsets(&bench.land()), [(2, 5)]);
    let compare = |bench: &mut Bench, stored: Position| {
        let asked = bench.machine.positions();
        let mut all = asked.clone();
        all.insert(key(0), stored);
        bench.handle(Input::Stored { asked, stored: all, paused: BTreeSet::new() });
    };
    compare(&mut bench, stopped);
    bench.idle();
    compare(&mut bench, at(7));
    assert!(matches!(bench.act(), Some(Action::Report(Notice::Accepted(_)))));
    assert!(matches!(bench.act(), Some(Action::Load(asked)) if asked == [(key(0), false)]));
}

#[test]
fn a_partition_that_was_stopped_before_the_start_is_not_read() {
    let mut bench = Bench::new();
    bench.handle(Input::Assigned(vec![key(0)]));
    assert!(matches!(bench.act(), Some(Action::Load(_))));
    let stopped = Position { stopped: true, ..at(7) };
    bench.handle(Input::Loaded { starts: vec![(key(0), Start::At(stopped))], look_ups: Vec::new() });
    assert!(matches!(bench.act(), Some(Action::Report(Notice::Stopped { .. }))));
    bench.idle();
}

#[test]
fn a_partition_that_comes_back_while_its_write_is_in_flight_reads_its_position_after_it() {
    let mut bench = Bench::consuming(&[(0, 5)]);
    bench.push(0, 5..7);
    bench.pass(LIMITS.wait);
    let (id, _, _) = bench.write();
    bench.handle(Input::Revoked(vec![key(0)]));
    assert!(bench.machine.positions().is_empty());
    bench.handle(Input::Assigned(vec![key(0)]));
    bench.pass(Duration::from_secs(1));
    bench.idle();
    bench.written(id, &[(0, Outcome::Landed(at(7)))], Vec::new());
    assert!(matches!(bench.act(), Some(Action::Load(_))));
}

#[test]
fn the_records_of_a_revoked_partition_are_not_written() {
    let mut bench = Bench::consuming(&[(0, 5), (2, 5)]);
    bench.push(0, 5..7);
    bench.push(2, 5..6);
    bench.handle(Input::Revoked(vec![key(0)]));
    assert_eq!(offsets(&bench.land()), [(2, 5)]);
}

#[test]
fn a_stored_position_that_changed_beside_an_idle_partition_is_read_again() {
    let mut bench = Bench::consuming(&[(0, 5)]);
    let asked = bench.machine.positions();
    let stored = BTreeMap::from([(key(0), at(9))]);
    bench.push(0, 5..6);
    let batch = bench.land();
    assert_eq!(offsets(&batch), [(0, 5)]);
    // The position moved after the question: the answer is out of date.
    bench.handle(Input::Stored { asked, stored, paused: BTreeSet::new() });
    bench.idle();
    let asked = bench.machine.positions();
    bench.handle(Input::Stored { asked, stored: BTreeMap::new(), paused: BTreeSet::new() });
    assert!(matches!(bench.act(), Some(Action::Report(Notice::Differs { .. }))));
    assert!(matches!(bench.act(), Some(Action::StopReading(_))));
    assert!(matches!(bench.act(), Some(Action::Load(_))));
}

#[test]
fn a_write_that_died_is_followed_by_a_look_at_the_stored_positions() {
    let mut bench = Bench::consuming(&[(0, 5)]);
    bench.push(0, 5..6);
    bench.pass(LIMITS.wait);
    let (id, _, _) = bench.write();
    bench.handle(Input::WriteDied(id));
    assert!(matches!(bench.act(), Some(Action::StopReading(_))));
    assert!(matches!(bench.act(), Some(Action::Load(_))));
}

//! Paused topics, and lanes that pause because they are full.

use super::*;

#[test]
fn a_paused_topic_is_not_read_until_it_is_resumed() {
    let mut bench = Bench::consuming(&[(0, 5)]);
    bench.push(0, 5..6);
    let stored = bench.machine.positions();
    let pause =
        |paused: BTreeSet<Topic>| Input::Stored { asked: stored.clone(), stored: stored.clone(), paused };
    bench.handle(pause(BTreeSet::from([Topic::CloneReady])));
    assert!(matches!(bench.act(), Some(Action::StopReading(_))));
    bench.pass(Duration::from_secs(60));
    bench.idle();
    bench.handle(pause(BTreeSet::new()));
    assert!(matches!(bench.act(), Some(Action::Load(_))));
}

#[test]
fn a_full_lane_pauses_its_partitions_after_a_second_and_the_other_lane_goes_on() {
    let mut bench = Bench::consuming(&[(0, 0), (1, 0)]);
    bench.push(0, 0..10);
    let (id, _, _) = bench.write();
    bench.push(0, 10..20);
    assert!(!bench.machine.wants_records());
    bench.idle();
    assert_eq!(bench.machine.next_timeout(bench.now), Some(bench.now + Duration::from_secs(1)));
    bench.pass(Duration::from_secs(1));
    assert!(matches!(bench.act(), Some(Action::Pause(keys)) if keys == [key(0)]));
    assert!(bench.machine.wants_records());
    bench.push(1, 0..1);
    assert_eq!(offsets(&bench.land()), [(1, 0)]);
    bench.written(id, &[(0, Outcome::Landed(at(10)))], Vec::new());
    let (_, _, batch) = bench.write();
    assert_eq!(batch.records.len(), 10);
    // An error that the client reported while paused may be lost, and must be reported again.
    assert!(matches!(bench.act(), Some(Action::Resume(offsets)) if offsets == [(key(0), 20)]));
}

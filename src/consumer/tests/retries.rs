//! The time until the records of a partition are tried again, for the spans of their batches.

use super::*;

/// Writes a batch of partition 0, which ends so; returns how long the partition pauses.
fn pause_after(outcome: Outcome) -> Option<Duration> {
    let mut bench = Bench::consuming(&[(0, 5)]);
    bench.push(0, 5..7);
    bench.pass(LIMITS.wait);
    let (id, _, batch) = bench.write();
    bench.written(id, &[(0, outcome)], batch.records);
    let pause = bench.machine.pause_of(key(0), bench.now);
    // It is the time after which the machine acts by itself.
    while bench.act().is_some() {}
    if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
        assert_eq!(bench.machine.next_timeout(bench.now), Some(bench.now + pause));
    }
    pause
}

#[test]
fn the_pause_before_a_retry_is_the_one_that_the_machine_keeps() {
    let between = |pause: Option<Duration>, least, most| {
        let least_and_most = Duration::from_millis(least)..=Duration::from_millis(most);
        assert!(least_and_most.contains(&pause.unwrap()), "{pause:?}");
    };
    between(pause_after(waits(5, WaitKind::Drift)), 100, 200);
    between(pause_after(waits(5, WaitKind::Other)), 100, 200);
    between(pause_after(waits(5, WaitKind::Database)), 25, 50);
    assert_eq!(pause_after(waits(5, WaitKind::Suspects)), Some(Duration::ZERO));
}

#[test]
fn a_partition_that_is_stopped_or_gone_is_not_retried() {
    let stopped = Position { dead_in_a_row: 9, stopped: true, ..at(7) };
    assert_eq!(pause_after(Outcome::Landed(stopped)), None);
    assert_eq!(Bench::consuming(&[(0, 5)]).machine.pause_of(key(1), Instant::now()), None);
}

//! Simulated days, and tests that the simulation detects each missing rule.

use super::{Rule, World};

/// Number of days in `cargo test`. `make simulate-faults` simulates more.
const DAYS: u64 = 2000;

/// Simulates the day of a seed. If a promise is broken, the same day runs again to record its last events.
fn day(seed: u64, without: Option<Rule>) -> Result<(), String> {
    let mut world = World::new(seed, without, false);
    let Err(broken) = world.live_a_day() else { return Ok(()) };
    let at = world.now;
    let mut again = World::new(seed, without, true);
    let same = again.live_a_day() == Err(broken.clone()) && again.now == at;
    let events: Vec<String> = again.events.unwrap_or_default().into();
    Err(format!(
        "{}\n\n{broken}\nseed {seed}, {:.3} s after the beginning{}; again with: make simulate-faults SEED={seed} DAYS=1",
        events.join("\n"),
        at as f64 / 1000.0,
        if same { "" } else { " (and differently the second time)" }
    ))
}

fn live_through(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        if let Err(broken) = day(seed, None) {
            panic!("{broken}");
        }
    }
}

/// Asserts that the simulation detects a missing rule within 3,000 days, by this broken promise.
fn assert_found_without(rule: Rule, promise: &str) {
    let broken = |seed| World::new(seed, Some(rule), false).live_a_day().err();
    let (days, broken) =
        (0..3000).find_map(|seed| Some((seed + 1, broken(seed)?))).expect("3,000 days went by");
    println!("without {rule:?}, day {days}: {broken}");
    assert!(broken.contains(promise), "{broken}");
}

#[test]
fn whatever_fails_everything_settles_and_no_record_is_passed_over() {
    live_through(0..DAYS);
}

#[test]
fn the_same_seed_gives_the_same_day() {
    let day = |seed| {
        let mut world = World::new(seed, None, true);
        world.live_a_day().unwrap();
        world.events.unwrap()
    };
    assert_eq!(day(3), day(3));
    assert_ne!(day(3), day(4));
}

#[test]
fn the_simulation_finds_a_seek_in_place_of_a_new_assignment() {
    assert_found_without(Rule::AssignAgain, "although no fault concerns it");
}

#[test]
fn the_simulation_finds_an_error_that_is_lost_in_a_pause() {
    assert_found_without(Rule::ResumeByAssigning, "although no fault concerns it");
}

#[test]
fn the_simulation_finds_a_load_that_waits_for_every_partition() {
    assert_found_without(Rule::LoadsDoNotWait, "although no fault concerns it");
}

#[test]
fn the_simulation_finds_a_dead_client_that_is_not_replaced() {
    assert_found_without(Rule::ReplaceTheDead, "belongs to");
}

#[test]
fn the_simulation_finds_a_rebalance_that_is_answered_only_once_positions_are_known() {
    assert_found_without(Rule::AnswerAtOnce, "answer a rebalance");
}

#[test]
fn the_simulation_finds_ends_of_partitions_that_are_ignored() {
    assert_found_without(Rule::UseEnds, "although no fault concerns it");
}

#[test]
#[ignore = "make simulate-faults"]
fn simulate_faults() {
    let given = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = given("SIMULATION_SEED").unwrap_or(1);
    let days = given("SIMULATION_DAYS").unwrap_or(10_000);
    live_through(seed..seed + days);
    println!("{days} days from seed {seed}: every promise was kept");
}

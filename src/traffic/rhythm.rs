//! The starts of calls over days and nights.

use super::dice::Dice;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Relative number of calls in each hour of a weekday, UTC: offices from Europe to America.
const WEEKDAY: [i64; 24] =
    [9, 7, 6, 5, 5, 8, 18, 42, 78, 96, 100, 95, 88, 97, 100, 98, 92, 84, 73, 58, 44, 32, 22, 14];
/// Calls at weekends, in percent of those on weekdays.
const WEEKEND: i64 = 35;
/// Range of the random variation of each hour, in percent.
const CHANCE: (i64, i64) = (80, 120);
/// Long calls per thousand, and their length in minutes.
const LONG_CALLS: u64 = 20;
const LONG_MINUTES: (i64, i64) = (30, 110);
/// Maximum number of hours with weights of their own (ten years).
const MOST_HOURS: i64 = 87_660;

/// Generates the starts of the calls in order.
pub(super) struct Rhythm {
    dice: Dice,
    calls: u64,
    hours: Vec<Hour>,
    /// The weight of all hours together.
    weight: u128,
    made: u64,
    /// The index of the hour in which the last call started, and the weight of all earlier hours.
    at: usize,
    before: u128,
    bad: Hour,
    end: i64,
}

/// A clock hour, or the part of it within the simulated period.
#[derive(Clone, Copy, Default)]
struct Hour {
    start: i64,
    length: i64,
    weight: u128,
}

impl Rhythm {
    /// Distributes the calls between two times, in milliseconds since 1970.
    pub(super) fn new(seed: u64, calls: u64, start: i64, end: i64) -> Rhythm {
        let mut dice = Dice::new(seed, 2);
        let start = start.max(end - MOST_HOURS * HOUR_MS);
        let mut hours = Vec::new();
        let mut at = start;
        while at < end {
            let next = end.min(at - at.rem_euclid(HOUR_MS) + HOUR_MS);
            let hour = usize::try_from(at.rem_euclid(DAY_MS) / HOUR_MS).unwrap_or_default();
            // 1970-01-01 was a Thursday.
            let is_weekend = matches!(at.div_euclid(DAY_MS).rem_euclid(7), 2 | 3);
            let share = if is_weekend { WEEKEND } else { 100 };
            let calls = WEEKDAY.get(hour).copied().unwrap_or(1) * share * dice.range(CHANCE.0, CHANCE.1);
            let weight = u128::try_from(calls * (next - at)).unwrap_or(1);
            hours.push(Hour { start: at, length: next - at, weight });
            at = next;
        }
        if hours.is_empty() {
            hours.push(Hour { start, length: 1, weight: 1 });
        }
        let weight = hours.iter().map(|hour| hour.weight).sum();
        let mut rhythm =
            Rhythm { dice, calls, hours, weight, made: 0, at: 0, before: 0, bad: Hour::default(), end };
        // Chosen by weight within the middle half, so it is a busy hour.
        let share = rhythm.dice.range(250, 750);
        rhythm.bad = rhythm.hour_of(rhythm.weight * u128::from(share.unsigned_abs()) / 1000).0;
        (rhythm.at, rhythm.before) = (0, 0);
        rhythm
    }

    /// Returns the start of the next call. Each call has an equal share of the weight, and starts at random within it.
    pub(super) fn next_start(&mut self) -> i64 {
        let calls = u128::from(self.calls.max(1));
        let share = u64::try_from(self.weight / calls).unwrap_or(u64::MAX).max(1);
        let within = u128::from(self.dice.below(share));
        let (hour, into) = self.hour_of(self.weight * u128::from(self.made) / calls + within);
        self.made += 1;
        let passed = into.saturating_mul(hour.length.unsigned_abs().into()) / hour.weight.max(1);
        hour.start + i64::try_from(passed).unwrap_or(hour.length).min(hour.length)
    }

    /// Returns the hour in which a cumulative weight is reached, and the weight into it. Never goes back.
    fn hour_of(&mut self, weight: u128) -> (Hour, u128) {
        while let Some(hour) = self.hours.get(self.at)
            && self.before + hour.weight <= weight
            && self.at + 1 < self.hours.len()
        {
            self.before += hour.weight;
            self.at += 1;
        }
        let hour = self.hours.get(self.at).copied().unwrap_or_default();
        (hour, weight.saturating_sub(self.before))
    }

    /// Returns the duration of a call that starts at `start`, if it is a long one.
    pub(super) fn long_call(&mut self, start: i64) -> Option<i64> {
        let is_long = self.dice.chance(LONG_CALLS);
        let minutes = self.dice.range(LONG_MINUTES.0, LONG_MINUTES.1);
        let seconds = self.dice.range(0, 59);
        let length = (minutes * 60 + seconds) * 1000;
        (is_long && start + length < self.end).then_some(length)
    }

    /// Whether the voice API has its bad hour.
    pub(super) fn is_bad(&self, at: i64) -> bool {
        (self.bad.start..self.bad.start + self.bad.length).contains(&at)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    /// A Monday.
    const MONDAY: i64 = 1_767_571_200_000;

    fn starts(calls: u64, start: i64, end: i64) -> Vec<i64> {
        let mut rhythm = Rhythm::new(7, calls, start, end);
        (0..calls).map(|_| rhythm.next_start()).collect()
    }

    fn count(starts: &[i64], from: i64, hours: i64) -> usize {
        starts.iter().filter(|start| (from..from + hours * HOUR_MS).contains(start)).count()
    }

    #[test]
    fn calls_start_in_turn_within_the_span_more_by_day_than_by_night_and_fewer_at_weekends() {
        let starts = starts(20_000, MONDAY, MONDAY + 28 * DAY_MS);
        assert!(starts.is_sorted());
        assert!(starts[0] >= MONDAY && *starts.last().unwrap() < MONDAY + 28 * DAY_MS);
        let (night, day) = (count(&starts, MONDAY + 2 * HOUR_MS, 3), count(&starts, MONDAY + 9 * HOUR_MS, 3));
        assert!(night * 8 < day && night > 0, "{night} {day}");
        let (friday, saturday) =
            (count(&starts, MONDAY + 4 * DAY_MS, 24), count(&starts, MONDAY + 5 * DAY_MS, 24));
        assert!(saturday * 2 < friday, "{saturday} {friday}");
    }

    #[test]
    fn a_span_of_any_length_has_all_its_calls() {
        for (calls, span) in
            [(0, DAY_MS), (1, 1), (5, 0), (100, HOUR_MS / 2), (100_000, 2 * HOUR_MS), (10, 100_000 * DAY_MS)]
        {
            let end = 20_000_000 * 1000 * 1000;
            let starts = starts(calls, end - span, end);
            assert_eq!(starts.len() as u64, calls);
            assert!(starts.iter().all(|start| (end - span..=end + 1).contains(start)), "{span}: {starts:?}");
        }
    }

    #[test]
    fn the_bad_hour_is_one_of_the_span() {
        let rhythm = Rhythm::new(7, 10, MONDAY, MONDAY + 3 * DAY_MS);
        let bad: Vec<i64> = (0..72).filter(|hour| rhythm.is_bad(MONDAY + hour * HOUR_MS)).collect();
        assert_eq!(bad.len(), 1);
        assert!(WEEKDAY[bad[0] as usize % 24] > 20, "{bad:?}");
    }
}

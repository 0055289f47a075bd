//! Reproducible random choices.

use chrono::DateTime;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};

use super::event::rfc3339;

/// Random choices with a fixed definition, which no new version of a library changes.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    pub(super) fn new(seed: u64, stream: u64) -> Dice {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(seed.to_le_bytes()).for_each(|(to, from)| *to = from);
        let mut generator = ChaCha8Rng::from_seed(bytes);
        generator.set_stream(stream);
        Dice(generator)
    }

    /// Returns a number from 0 to below the limit.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(limit)) >> 64) as u64
    }

    /// Returns a number in the range, both ends included.
    pub(super) fn range(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }

    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub(super) fn pick<T: Copy + Default>(&mut self, from: &[T]) -> T {
        from.get(self.below(from.len() as u64) as usize).copied().unwrap_or_default()
    }

    pub(super) fn token(&mut self, prefix: &str, length: usize) -> String {
        const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        prefix.chars().chain((0..length).map(|_| char::from(self.pick(LETTERS)))).collect()
    }

    /// Nearly lognormal around the median: eight factors, each up to `1 + spread` or its reciprocal.
    pub(super) fn around(&mut self, median: i64, spread: f64) -> i64 {
        let product = (0..8).fold(median as f64, |product, _| {
            let factor = 1.0 + spread * (self.below(1 << 53) as f64 / (1u64 << 53) as f64);
            if self.chance(500) { product * factor } else { product / factor }
        });
        product as i64
    }

    /// Returns one second to one hour in milliseconds, short delays more often.
    pub(super) fn delay(&mut self) -> i64 {
        let least = 1000 << self.below(12);
        (least + self.range(0, least)).min(3_600_000)
    }

    /// Formats a time as one of several producers would.
    pub(super) fn time(&mut self, micros: i64) -> Value {
        let utc = DateTime::from_timestamp_micros(micros).unwrap_or_default();
        match self.below(12) {
            0..=4 => json!(rfc3339(micros, 0)),
            5 | 6 => json!(rfc3339(micros, 2)),
            7 => json!(rfc3339(micros, -5)),
            8 => json!(format!("{}{:03}Z", utc.format("%Y-%m-%dT%H:%M:%S%.6f"), self.below(1000))),
            9 => json!(utc.format("%Y-%m-%d %H:%M:%S%.6f").to_string()),
            _ if micros % 1000 == 0 => json!(micros / 1000),
            _ => json!(micros as f64 / 1000.0),
        }
    }
}

//! Variables whose names are nearly a setting's: most likely a typing error, which leaves a default in force.

use std::fmt;

use strsim::damerau_levenshtein;

/// Every setting's variable but for the open-ended `KAFKA_X_Y` and `OTEL_*`.
const NAMES: &[&str] = &[
    "BATCH_MAX_RECORDS",
    "BATCH_MAX_WAIT",
    "CACHE_TTL",
    "DATABASE_URL",
    "DB_MAX_OVERFLOW",
    "DB_POOL_SIZE",
    "DEAD_LETTER_LIMIT",
    "DEAD_LETTER_RETENTION",
    "EXPIRED_EVENT_MAX_AGE",
    "EXPIRY_INTERVAL",
    "HTTP_ADDR",
    "KAFKA_BOOTSTRAP_SERVERS",
    "KAFKA_GROUP_ID",
    "LOG_FORMAT",
    "RECORD_MAX_BYTES",
    "RUST_LOG",
    "TOPIC_PREFIX",
];

/// A variable that is no setting, and the setting that is probably meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misspelt {
    /// The name in the environment.
    pub name: String,
    /// The setting's name.
    pub likely: &'static str,
}

impl fmt::Display for Misspelt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is no setting and is ignored: perhaps {} is meant", self.name, self.likely)
    }
}

/// The variables that look like a misspelt setting, by name. An empty one counts as unset.
pub fn misspelt(env: impl Iterator<Item = (String, String)>) -> Vec<Misspelt> {
    let filled = env.filter(|(_, value)| !value.trim().is_empty());
    let mut found: Vec<Misspelt> =
        filled.filter_map(|(name, _)| likely(&name).map(|likely| Misspelt { name, likely })).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// The setting with the nearest name, if it is near enough.
pub fn likely(name: &str) -> Option<&'static str> {
    if NAMES.contains(&name) {
        return None;
    }
    let upper = name.to_uppercase().replace('-', "_");
    let near = |setting: &&'static str| {
        // one typing error in a short name, two in a longer one: with more, other programs' variables would match
        let most = if setting.len() < 10 { 1 } else { 2 };
        let distance = damerau_levenshtein(&upper, setting);
        (distance <= most).then_some((distance, *setting))
    };
    NAMES.iter().filter_map(near).min().map(|(_, setting)| setting)
}

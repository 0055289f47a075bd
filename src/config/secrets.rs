//! What of a setting is never shown.

use crate::database_url;

/// What stands in the place of a secret.
pub(super) const HIDDEN: &str = "***";

/// Whether a property of librdkafka holds a secret.
pub(super) fn is_secret(property: &str) -> bool {
    property.starts_with("sasl.oauthbearer.")
        || ["password", "secret", "key", "token", "jaas"].iter().any(|word| property.contains(word))
}

/// The URL with its passwords hidden; hidden whole where it cannot be read.
pub(super) fn without_secrets(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    database_url::shown(url).unwrap_or_else(|| HIDDEN.to_owned())
}

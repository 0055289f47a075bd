//! Hides secrets in settings.

use crate::database_url;

/// The text shown in place of a secret.
pub(super) const HIDDEN: &str = "***";

/// Whether a property of librdkafka holds a secret.
pub(super) fn is_secret(property: &str) -> bool {
    property.starts_with("sasl.oauthbearer.")
        || ["password", "secret", "key", "token", "jaas"].iter().any(|word| property.contains(word))
}

/// The URL with its passwords hidden. A URL that cannot be read is hidden completely.
pub(super) fn without_secrets(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    database_url::shown(url).unwrap_or_else(|| HIDDEN.to_owned())
}

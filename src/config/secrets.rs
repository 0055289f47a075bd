//! What of a setting is never shown.

use url::Url;

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
    let Ok(mut url) = Url::parse(url) else { return HIDDEN.to_owned() };
    if url.password().is_some() && url.set_password(Some(HIDDEN)).is_err() {
        return HIDDEN.to_owned();
    }
    let query = url.query().map(|query| {
        let hide = |pair: &str| match pair.split_once('=') {
            Some((key, _)) if is_secret_parameter(key) => format!("{key}={HIDDEN}"),
            _ => pair.to_owned(),
        };
        query.split('&').map(hide).collect::<Vec<_>>().join("&")
    });
    url.set_query(query.as_deref());
    url.to_string()
}

/// Parameters of the URL that are shown; any other may be a misspelt `password`.
const SHOWN_PARAMETERS: [&str; 11] = [
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "port",
    "ssl",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

fn is_secret_parameter(key: &str) -> bool {
    !SHOWN_PARAMETERS.contains(&key)
}

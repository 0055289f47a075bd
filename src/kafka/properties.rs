//! Checks librdkafka's properties without a broker.

use rdkafka::ClientConfig;
use rdkafka::client::Client;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaType;

use super::admin::CollectedMessages;
use super::client_config;
use super::group::group_config;
use super::send::producer_config;
use crate::config::{self, SettingError, Settings};

/// Returns an error for each property that librdkafka does not know, for each value that it does not accept, and for
/// combinations that it refuses when a client is created. Contacts no broker. Each error names an environment variable.
pub fn check_properties(settings: &Settings) -> Vec<SettingError> {
    let mut errors: Vec<SettingError> =
        settings.kafka_properties.iter().filter_map(|(property, value)| wrong(property, value)).collect();
    if errors.is_empty() {
        errors.extend(not_made(settings));
    }
    errors
}

fn wrong(property: &str, value: &str) -> Option<SettingError> {
    let mut config = ClientConfig::new();
    config.set(property, value);
    config.create_native_config().err()?;
    let variable = config::variable(property);
    // librdkafka's error text quotes the value, which may be a secret, so it is omitted.
    let is_known =
        ClientConfig::new().create_native_config().is_ok_and(|native| native.get(property).is_ok());
    if is_known {
        return Some(SettingError::new(
            variable,
            "has a value that librdkafka does not take",
            "correct or unset it",
        ));
    }
    let remedy = match config::likely(&variable) {
        Some(setting) => format!("perhaps {setting} is meant"),
        None => "correct its name, or unset it".to_owned(),
    };
    Some(SettingError::new(variable, format!("means {property}, which is no property of librdkafka"), remedy))
}

/// Creates each kind of client that `run` creates, without a broker to connect to.
fn not_made(settings: &Settings) -> Option<SettingError> {
    let kinds = [
        (RDKafkaType::RD_KAFKA_CONSUMER, group_config(settings)),
        (RDKafkaType::RD_KAFKA_PRODUCER, producer_config(settings)),
        (RDKafkaType::RD_KAFKA_CONSUMER, client_config(settings)),
    ];
    kinds.into_iter().find_map(|(kind, mut config)| {
        config.remove("bootstrap.servers");
        let refused = match config.create_native_config() {
            Ok(native) => Client::new(&config, native, kind, CollectedMessages::default()).err()?,
            Err(error) => error,
        };
        let words = match refused {
            KafkaError::ClientCreation(words) => words,
            other => other.to_string(),
        };
        // The longest property name in the text, as one name may begin with another.
        let given = settings.kafka_properties.keys().filter(|property| words.contains(property.as_str()));
        let variable = given.max_by_key(|property| property.len()).map(|property| config::variable(property));
        let of_login = || words.contains("SASL mechanism").then(|| "KAFKA_SASL_MECHANISM".to_owned());
        let variable = variable.or_else(of_login).unwrap_or_else(|| "KAFKA_*".to_owned());
        Some(SettingError::new(
            variable,
            format!("is refused by librdkafka ({})", words.trim()),
            "correct or unset it",
        ))
    })
}

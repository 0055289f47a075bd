//! The events as a published interface: a JSON Schema for each topic, and the AsyncAPI document that refers to them.
//!
//! The files are in `schemas/`. They are the contract for producers, stricter than the decoder: every event that a schema
//! allows is accepted, and `docs/events.md` lists what is accepted beyond. `tests/it/schemas` checks both against the
//! decoder.

/// The topics that have a schema, each with its file.
pub const SCHEMAS: [(&str, &str); 6] = [
    ("clone.ready", include_str!("../schemas/clone.ready.schema.json")),
    ("clone.failed", include_str!("../schemas/clone.failed.schema.json")),
    ("clone.transfer", include_str!("../schemas/clone.transfer.schema.json")),
    ("call.lifecycle", include_str!("../schemas/call.lifecycle.schema.json")),
    ("caller.voice_mapping", include_str!("../schemas/caller.voice_mapping.schema.json")),
    ("clone.expired", include_str!("../schemas/clone.expired.schema.json")),
];

const ASYNCAPI: &str = include_str!("../schemas/asyncapi.yaml");

/// The JSON Schema (draft-07) of a topic's events, by the topic's name without prefix.
pub fn of_topic(topic: &str) -> Option<&'static str> {
    SCHEMAS.iter().find(|(name, _)| *name == topic).map(|(_, schema)| schema.trim_end())
}

/// The AsyncAPI document (YAML), with the schemas in place of the references to them.
pub fn asyncapi() -> String {
    let mut document = ASYNCAPI.trim_end().to_owned();
    for (topic, schema) in SCHEMAS {
        // JSON is YAML. The lines of a value are indented deeper than its name.
        let indented = schema.trim_end().replace('\n', "\n        ");
        document = document.replace(&format!("$ref: ./{topic}.schema.json"), &indented);
    }
    document
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::Topic;

    #[test]
    fn every_topic_that_is_read_has_a_schema_of_its_name() {
        for topic in Topic::ALL {
            let schema: serde_json::Value = serde_json::from_str(of_topic(topic.name()).unwrap()).unwrap();
            assert_eq!(schema["$id"], format!("urn:voiceclone-events:{topic}:1"));
        }
        assert!(of_topic("clone.expired").is_some() && of_topic("clone.reedy").is_none());
    }

    #[test]
    fn the_printed_document_is_self_contained() {
        let document = asyncapi();
        assert!(!document.contains("$ref: ./"), "{document}");
        for (topic, _) in SCHEMAS {
            assert!(document.contains(&format!("\"$id\": \"urn:voiceclone-events:{topic}:1\"")), "{topic}");
        }
    }
}

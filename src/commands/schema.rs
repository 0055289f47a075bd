//! `schema`: the JSON Schema of a topic's events, or the AsyncAPI document (contract, section 8).

use crate::cli::Usage;
use crate::json_schemas::{SCHEMAS, asyncapi, of_topic};
use crate::output::print;

/// Prints the JSON Schema of a topic, or the AsyncAPI document of all topics.
pub fn run(topic: Option<&str>) -> anyhow::Result<()> {
    let Some(topic) = topic else { return print(asyncapi()) };
    match of_topic(topic) {
        Some(schema) => print(schema),
        None => {
            let names = SCHEMAS.map(|(name, _)| name).join(", ");
            Err(Usage::new(format!("there is no schema of {topic:?}: give one of {names}")).into())
        }
    }
}

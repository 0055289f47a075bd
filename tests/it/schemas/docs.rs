//! The documentation's examples and field tables against the schemas and the daemon.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use voiceclone_events::json_schemas::SCHEMAS;
use voiceclone_events::record::Topic;

use super::{decoded, properties, required, schema, validator};

pub const EVENTS: &str = include_str!("../../../docs/events.md");

/// The cells of the first table after a text.
pub fn rows_after(page: &str, text: &str) -> Vec<Vec<String>> {
    let (_, rest) = page.split_once(text).unwrap_or_else(|| panic!("the page has no {text:?}"));
    let table =
        rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| {
        line.trim_matches('|').split(" |").map(|cell| cell.trim().to_owned()).collect::<Vec<String>>()
    };
    table.skip(2).map(cells).collect()
}

/// The section of a topic.
fn section(topic: &str) -> &'static str {
    let heading = format!("\n## `{topic}`\n");
    let (_, rest) = EVENTS.split_once(&heading).unwrap_or_else(|| panic!("no section of {topic}"));
    rest.split("\n## ").next().unwrap()
}

/// The fields of a topic's table: the second cell and the third one.
fn documented(topic: &str) -> BTreeMap<String, (String, String)> {
    let mut fields = BTreeMap::new();
    for row in rows_after(section(topic), "") {
        let [names, need, rule] = row.as_slice() else { panic!("{row:?}") };
        for name in names.split(", ") {
            fields.insert(name.trim_matches('`').to_owned(), (need.clone(), rule.clone()));
        }
    }
    fields
}

#[test]
fn each_field_of_a_schema_is_in_the_table_of_its_topic_with_the_same_rule_and_the_other_way_round() {
    for (topic, _) in SCHEMAS {
        let schema = schema(topic);
        let fields = documented(topic);
        let published: Vec<&String> = properties(&schema).keys().collect();
        let mut published: Vec<&str> = published.into_iter().map(String::as_str).collect();
        published.sort_unstable();
        assert_eq!(fields.keys().map(String::as_str).collect::<Vec<_>>(), published, "{topic}");
        for (name, field) in properties(&schema) {
            let (need, rule) = &fields[name];
            let kinds: Vec<&str> = match &field["type"] {
                Value::Array(kinds) => kinds.iter().map(|kind| kind.as_str().unwrap()).collect(),
                kind => vec![kind.as_str().unwrap()],
            };
            let kind = match kinds[0] {
                _ if field["enum"].is_array() => "`initiated`, `completed` or `failed`".to_owned(),
                _ if field["format"] == "date-time" => "time".to_owned(),
                _ if field["format"] == "uuid" => "UUID".to_owned(),
                "string" => match field["maxLength"].as_u64() {
                    Some(max) => format!("text, {max}"),
                    None => "text".to_owned(),
                },
                other => other.to_owned(),
            };
            let said = rule.split([';', '.']).next().unwrap();
            let said = said.split_once(", merged").map_or(said, |(said, _)| said);
            assert_eq!(said, kind, "{topic}.{name}: {rule}");
            if topic == "clone.expired" {
                assert_eq!(need == "never null", kinds.len() == 1, "{topic}.{name}: {need}");
            } else {
                assert_eq!(
                    need.starts_with("required"),
                    required(&schema).contains(&name.as_str()),
                    "{topic}.{name}: {need}"
                );
                let is_event_time = field["description"].as_str().unwrap().starts_with("Event time");
                assert_eq!(need == "event time", is_event_time, "{topic}.{name}: {need}");
            }
        }
    }
}

/// The lines that the pages publish, with their topics.
fn published_lines(page: &str) -> Vec<(String, String)> {
    let mut lines = page.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some((_, rest)) = line.split_once("voiceclone-events publish") else { continue };
        if !line.ends_with("<<'EOF'") {
            continue;
        }
        let (_, topic) = rest.split_once("--topic ").unwrap();
        let topic = topic.split(' ').next().unwrap();
        let values = lines.by_ref().take_while(|line| *line != "EOF");
        found.extend(values.map(|value| (topic.to_owned(), value.to_owned())));
    }
    found
}

#[test]
fn every_event_that_the_documentation_publishes_is_allowed_by_its_schema_and_taken_by_the_daemon() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut count = 0;
    for page in
        pages.chain([root.join("README.md")]).filter(|page| page.extension().is_some_and(|end| end == "md"))
    {
        for (topic, line) in published_lines(&std::fs::read_to_string(&page).unwrap()) {
            let value: Value = serde_json::from_str(&line).unwrap();
            let event = if value.get("specversion").is_some() { &value["data"] } else { &value };
            let validator = validator(&schema(&topic));
            validator.validate(event).unwrap_or_else(|error| panic!("{}: {error}: {line}", page.display()));
            decoded(Topic::from_name(&topic).unwrap(), line.as_bytes()).unwrap();
            count += 1;
        }
    }
    assert!(count >= 9, "{count} events");
}

#[test]
fn the_expired_event_in_the_documentation_is_allowed_by_its_schema() {
    let (_, json) = section("clone.expired").split_once("```json\n").unwrap();
    let event: Value = serde_json::from_str(json.split("```").next().unwrap()).unwrap();
    validator(&schema("clone.expired")).validate(&event).unwrap();
    assert_eq!(
        event.as_object().unwrap().len(),
        properties(&schema("clone.expired")).len(),
        "no field is left out"
    );
}

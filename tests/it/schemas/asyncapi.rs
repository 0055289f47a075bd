//! The AsyncAPI document, read by its makers' parser where that can be had (`scripts/setup.sh test` installs it).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use voiceclone_events::event::Reason;
use voiceclone_events::json_schemas::{SCHEMAS, asyncapi};

use super::{properties, schema};
use crate::support::left_out::or_left_out;
use crate::support::processes::folder;
use crate::support::scene::OWN_TOPICS;
use crate::support::tools;

const PARSE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/schemas/asyncapi.cjs");

/// The parser's results for a document: errors, and the payload schema of each message by channel and message.
fn parsed(modules: &Path, document: &Path) -> Value {
    let mut node = Command::new("node");
    let output = node.arg(PARSE).arg(document).env("NODE_PATH", modules).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn the_asyncapi_document_is_valid_as_a_file_beside_the_schemas_and_as_it_is_printed() {
    let modules = or_left_out!(tools::node("@asyncapi/parser"));
    let printed = folder("asyncapi").join("printed.yaml");
    std::fs::write(&printed, asyncapi()).unwrap();
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schemas/asyncapi.yaml");
    for document in [file, printed] {
        let parsed = parsed(&modules, &document);
        assert_eq!(parsed["errors"], serde_json::json!([]), "{}", document.display());
        let channels: BTreeMap<String, BTreeMap<String, Value>> =
            serde_json::from_value(parsed["channels"].clone()).unwrap();
        let mut addresses: Vec<String> =
            OWN_TOPICS.iter().map(|topic| format!("{{topicPrefix}}{topic}")).collect();
        addresses.sort();
        assert_eq!(channels.keys().cloned().collect::<Vec<_>>(), addresses);
        for (topic, _) in SCHEMAS {
            let messages = &channels[&format!("{{topicPrefix}}{topic}")];
            let title = schema(topic)["title"].as_str().unwrap().to_owned();
            let bare = &messages[&title]["schema"];
            assert_eq!(bare["required"], schema(topic)["required"], "{topic}, bare");
            for (name, field) in properties(&schema(topic)) {
                assert_eq!(bare["properties"][name].get("pattern"), field.get("pattern"), "{topic}.{name}");
            }
            if topic != "clone.expired" {
                let data =
                    &messages[&format!("{title}, CloudEvents' structured mode")]["allOf"][1]["properties"];
                assert_eq!(data["type"]["const"], topic);
                assert_eq!(data["data"]["required"], schema(topic)["required"], "{topic}, structured");
            }
        }
    }
}

#[test]
fn the_asyncapi_document_lists_the_reasons_of_dead_letters() {
    let document = asyncapi();
    let (_, reasons) = document.split_once("            enum:\n").unwrap();
    let listed: Vec<&str> = reasons.lines().map_while(|line| line.strip_prefix("              - ")).collect();
    assert_eq!(listed, Reason::ALL.map(Reason::name));
}

//! `dead-letters export`: letters as lines for `publish`, or as CSV for a spreadsheet.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde_json::json;

use super::layout;
use super::select::{self, chunks, filter, require_known};
use crate::cli::dead_letters::{FilterArgs, Format};
use crate::config::Settings;
use crate::output::say;
use crate::store::letters::{Letter, LetterState};

const COLUMNS: &str =
    "id,topic,partition,offset,timestamp,reason,message,created_at,state,key,value,key_base64,value_base64";

/// Exports to a new file or to standard output, and prints the count to standard error.
pub async fn run(
    settings: &Settings,
    args: &FilterArgs,
    format: Format,
    reveal: bool,
    output: Option<&Path>,
) -> anyhow::Result<()> {
    let store = crate::commands::store(settings).await?;
    require_known(&store, args).await?;
    let state = if args.named().is_some() { LetterState::All } else { LetterState::Unresolved };
    let filter = filter(settings, args, state);
    let context = "the dead letters could not be read";
    let selected = store.select_letters(&filter).await.context(context)?;
    let mut out: BufWriter<Box<dyn Write + Send>> = BufWriter::new(match output {
        None => Box::new(std::io::stdout()),
        Some(path) => Box::new(
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .with_context(|| format!("{} cannot be created", path.display()))?,
        ),
    });
    let unwritable = "the dead letters could not be written";
    if format == Format::Csv {
        write!(out, "{COLUMNS}\r\n").context(unwritable)?;
    }
    let mut topics = std::collections::BTreeSet::new();
    let mut count = 0_i64;
    for ids in chunks(&selected, usize::MAX) {
        for letter in store.load_letters(&ids).await.context(context)? {
            match format {
                Format::Ndjson => out.write_all(&line(&letter, reveal)).and_then(|()| out.write_all(b"\n")),
                Format::Csv => {
                    write!(out, "{}\r\n", cells(&letter, reveal).map(|text| cell(&text)).join(","))
                }
            }
            .context(unwritable)?;
            count += 1;
            topics.insert(letter.head.topic);
        }
    }
    out.flush().context(unwritable)?;
    say(format!("{} exported.", select::letters(count)));
    if !reveal && count > 0 {
        say("Phone numbers are masked, and other texts left out: --reveal exports them.");
    } else if format == Format::Ndjson && topics.len() > 1 {
        say("These are of several topics, and `publish` takes one: --topic exports those of one.");
    }
    Ok(())
}

/// With `reveal`, a JSON object as `publish` takes it; anything else is exported as the letter with its place.
fn line(letter: &Letter, reveal: bool) -> Vec<u8> {
    if !reveal {
        return layout::object(letter, false).to_string().into_bytes();
    }
    if let Some(object) = letter.value.as_deref().and_then(one_line) {
        return object;
    }
    let head = &letter.head;
    let encoded = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| STANDARD.encode(bytes));
    let line = json!({
        "topic": head.topic, "partition": head.partition, "offset": head.record_offset,
        "timestamp": head.record_timestamp, "reason": head.reason, "message": head.message,
        "key_base64": encoded(&letter.key), "value_base64": encoded(&letter.value),
    });
    line.to_string().into_bytes()
}

/// A JSON object in one line, its other bytes unchanged: JSON allows line ends only between tokens.
fn one_line(value: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let is_object = text.trim_start().starts_with('{');
    is_object.then(|| text.trim().replace(['\n', '\r'], " ").into_bytes())
}

fn cells(letter: &Letter, reveal: bool) -> [String; 13] {
    let head = &letter.head;
    let text = |bytes: &Option<Vec<u8>>| bytes.clone().and_then(|bytes| String::from_utf8(bytes).ok());
    let encoded = |bytes: &Option<Vec<u8>>| match bytes {
        Some(bytes) if reveal && std::str::from_utf8(bytes).is_err() => STANDARD.encode(bytes),
        _ => String::new(),
    };
    let (key, value) = if reveal {
        (text(&letter.key), text(&letter.value))
    } else {
        let object = layout::object(letter, false);
        let member = |name: &str| object.get(name).filter(|value| !value.is_null()).cloned();
        let shown =
            |value: serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (member("key").map(shown), member("value").map(shown))
    };
    [
        head.id.to_string(),
        head.topic.clone(),
        head.partition.to_string(),
        head.record_offset.to_string(),
        head.record_timestamp.clone().unwrap_or_default(),
        head.reason.clone(),
        head.message.clone(),
        head.created_at.clone(),
        head.state().to_owned(),
        key.unwrap_or_default(),
        value.unwrap_or_default(),
        encoded(&letter.key),
        encoded(&letter.value),
    ]
}

/// A CSV cell. An apostrophe precedes text that a spreadsheet would take for a formula.
pub fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_no_formula_and_is_quoted_where_that_is_needed() {
        let cells = ["plain", "=1+1", "+1202", "-", "@a", "a,b", "say \"a\"\n"].map(cell);
        assert_eq!(cells, ["plain", "'=1+1", "'+1202", "'-", "'@a", "\"a,b\"", "\"say \"\"a\"\"\n\""]);
    }

    #[test]
    fn an_object_becomes_one_line_and_stays_as_it_was() {
        let line =
            |text: &str| one_line(text.as_bytes()).map(|line| String::from_utf8_lossy(&line).into_owned());
        assert_eq!(line("{\n \"a\" : 1.50 }\n").as_deref(), Some("{  \"a\" : 1.50 }"));
        assert_eq!(line("[1]"), None);
        assert_eq!(line("{"), None);
    }
}

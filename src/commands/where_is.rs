//! `where-is`: counts the rows and dead letters that mention a caller, without showing them (contract, section 8).

use std::io::BufRead as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use comfy_table::Table;
use serde_json::json;

use crate::cli::Usage;
use crate::config::Settings;
use crate::output::{self, print};
use crate::store::whereabouts::Place;

/// An id with fewer digits is searched for as it is.
const MIN_PHONE_DIGITS: usize = 7;

/// The caller's id as given, or the first line of standard input for `-`.
pub fn caller(given: &str) -> anyhow::Result<String> {
    let mut caller = given.to_owned();
    if given == "-" {
        caller.clear();
        std::io::stdin().lock().read_line(&mut caller).context("standard input could not be read")?;
        caller.truncate(caller.trim_end_matches(['\r', '\n']).len());
    }
    if caller.trim().is_empty() {
        return Err(Usage::new("--caller is empty: give the caller's id, like +12025550143").into());
    }
    if caller.contains('\0') {
        return Err(Usage::new("--caller holds U+0000, which no caller's id does: give another id").into());
    }
    Ok(caller)
}

/// Prints the counts.
pub async fn run(settings: &Settings, caller: &str, within: Duration, json: bool) -> anyhow::Result<()> {
    let store = super::store(settings).await?;
    let start = Instant::now();
    let places = store.whereabouts(caller, &search_strings(caller), within).await;
    // The server's words depend on its language; the time does not.
    let places = places.with_context(|| match start.elapsed() {
        took if took >= within => format!(
            "the search was ended after {} s: give it longer with --within, such as --within 2h",
            within.as_secs()
        ),
        _ => "the tables could not be searched".to_owned(),
    })?;
    let total: i64 = places.iter().map(Place::total).sum();
    if json {
        return print(json!({ "total": total, "places": places }));
    }
    print(table(&places))?;
    print(match total {
        0 => "Nothing here holds the caller.".to_owned(),
        1 => "1 row holds the caller.".to_owned(),
        _ => format!("{total} rows hold the caller."),
    })?;
    print("Not looked at: Kafka's topics, backups, logs. docs/privacy.md says what an erasure takes.")
}

/// The search strings for a caller's id in texts and bytes. The digits of a phone number match each form without spaces:
/// with +, with 00, and with an escaped +.
fn search_strings(caller: &str) -> Vec<String> {
    if let Some(digits) = caller.strip_prefix('+')
        && digits.len() >= MIN_PHONE_DIGITS
        && digits.bytes().all(|byte| byte.is_ascii_digit())
    {
        return vec![digits.to_owned()];
    }
    let mut search_strings = vec![caller.to_owned()];
    let quoted = json!(caller).to_string();
    if let Some(escaped) = quoted.get(1..quoted.len() - 1).filter(|escaped| *escaped != caller) {
        search_strings.push(escaped.to_owned());
    }
    search_strings
}

fn table(places: &[Place]) -> Table {
    let rows = places.iter().map(|place| {
        let [caller, call, text] =
            [place.by_caller, place.by_call_or_voice, place.by_text].map(|count| count.to_string());
        [place.place.clone(), caller, call, text]
    });
    output::table(["table", "by caller", "by call or voice", "by text"], &[1, 2, 3], rows)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_phone_number_is_looked_for_by_its_digits_and_any_other_id_as_it_is_and_as_json_writes_it() {
        assert_eq!(search_strings("+12025550143"), ["12025550143"]);
        assert_eq!(search_strings("+123"), ["+123"]);
        assert_eq!(search_strings("sip:ada@pbx"), ["sip:ada@pbx"]);
        assert_eq!(search_strings("a\"b"), ["a\"b", "a\\\"b"]);
    }

    #[test]
    fn a_caller_that_is_none_is_wrong_usage() {
        for given in ["", "  ", "a\0b"] {
            assert!(caller(given).unwrap_err().is::<Usage>(), "{given:?}");
        }
        assert_eq!(caller("+12025550143").unwrap(), "+12025550143");
    }
}

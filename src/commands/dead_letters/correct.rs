//! Applies the corrections of `fix` to a dead letter's record. No I/O.

use anyhow::{anyhow, bail};

use crate::cli::dead_letters::FixArgs;
use crate::event::edit;
use crate::record::{Header, Record};

/// Prefix of the headers that the dead-letter topic adds; no producer sends them.
const DEAD_LETTER_HEADER_PREFIX: &[u8] = b"__connect.errors.";

/// Returns the corrected record. `value` holds the bytes of `--value`. An error names the header or field that the record
/// lacks.
pub fn corrected(record: Record, args: &FixArgs, value: Option<Vec<u8>>) -> anyhow::Result<Record> {
    let mut corrected = record;
    corrected.headers.retain(|header| !header.name.starts_with(DEAD_LETTER_HEADER_PREFIX));
    for name in &args.drop_headers {
        let before = corrected.headers.len();
        corrected.headers.retain(|header| header.name != name.as_bytes());
        if corrected.headers.len() == before {
            bail!("the record has no header {name}: leave --drop-header out, or correct its name");
        }
    }
    for (name, _) in &args.headers {
        corrected.headers.retain(|header| header.name != name.as_bytes());
    }
    let headers = args.headers.iter().map(|(name, value)| Header::new(name.as_str(), value.as_str()));
    corrected.headers.extend(headers);
    if value.is_some() {
        corrected.value = value;
    }
    if !args.set.is_empty() {
        let edited = edit::with_fields(corrected.value.as_deref(), &corrected.headers, &args.set);
        let edited = edited
            .map_err(|lack| anyhow!("{lack}, so --set has no place: give the whole value with --value"));
        corrected.value = Some(edited?);
    }
    if let Some(key) = &args.key {
        corrected.key = Some(key.as_bytes().to_vec());
    }
    if let Some(time) = args.timestamp {
        corrected.timestamp = time.micros().div_euclid(1000);
    }
    Ok(corrected)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::event::Time;
    use crate::record::Topic;

    fn record() -> Record {
        Record {
            topic: Topic::CloneReady,
            partition: 3,
            offset: 7,
            timestamp: 1000,
            key: Some(b"k".to_vec()),
            value: Some(br#"{"a":1}"#.to_vec()),
            headers: vec![
                Header::new("x", "1"),
                Header::new("__connect.errors.topic", "clone.ready"),
                Header::new("x", "2"),
                Header { name: b"\xff".to_vec(), value: None },
            ],
        }
    }

    fn headers(record: &Record) -> Vec<(&[u8], Option<&[u8]>)> {
        record.headers.iter().map(|header| (header.name.as_slice(), header.value.as_deref())).collect()
    }

    #[test]
    fn what_is_not_changed_is_as_it_was_but_for_the_headers_of_a_dead_letter() {
        let args = FixArgs { set: vec![("b".into(), "2".into())], ..FixArgs::default() };
        let fixed = corrected(record(), &args, None).unwrap();
        assert_eq!(fixed.value.as_deref(), Some(br#"{"a":1,"b":2}"#.as_slice()));
        assert_eq!((fixed.timestamp, fixed.key.as_deref()), (1000, Some(b"k".as_slice())));
        let kept: [(&[u8], Option<&[u8]>); 3] = [(b"x", Some(b"1")), (b"x", Some(b"2")), (b"\xff", None)];
        assert_eq!(headers(&fixed), kept);
    }

    #[test]
    fn everything_can_be_changed_and_fields_are_set_in_the_given_value() {
        let args = FixArgs {
            set: vec![("c".into(), "3".into())],
            key: Some("other".into()),
            headers: vec![("x".into(), "3".into())],
            timestamp: Some(Time::parse("1970-01-01T00:00:02.0015Z").unwrap()),
            ..FixArgs::default()
        };
        let fixed = corrected(record(), &args, Some(b"{}".to_vec())).unwrap();
        assert_eq!(fixed.value.as_deref(), Some(br#"{"c":3}"#.as_slice()));
        assert_eq!((fixed.timestamp, fixed.key.as_deref()), (2001, Some(b"other".as_slice())));
        let changed: [(&[u8], Option<&[u8]>); 2] = [(b"\xff", None), (b"x", Some(b"3"))];
        assert_eq!(headers(&fixed), changed);
    }

    #[test]
    fn a_change_that_has_no_place_is_an_error() {
        let args = FixArgs { drop_headers: vec!["y".into()], ..FixArgs::default() };
        assert!(corrected(record(), &args, None).unwrap_err().to_string().contains("no header y"));
        let args = FixArgs { set: vec![("a".into(), "1".into())], ..FixArgs::default() };
        let error = corrected(Record { value: Some(b"[".to_vec()), ..record() }, &args, None).unwrap_err();
        assert!(error.to_string().contains("--value"), "{error}");
    }
}

//! The arguments of `dead-letters`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::values::{offset, partition, positive, rate, time, topic};
use crate::event::{Reason, Time};
use crate::record::Topic;

const FIX_EXAMPLES: &str = "\
Examples:
  voiceclone-events dead-letters fix 17 --set 'status=\"completed\"' --dry-run
  voiceclone-events dead-letters fix 17 --set clone_duration_ms=2300 --drop-header ce_time
  voiceclone-events dead-letters show 17 --raw >17.json    # correct the file, then
  voiceclone-events dead-letters fix 17 --value 17.json";

/// The commands of `dead-letters`.
#[derive(Debug, Clone, Subcommand)]
pub enum DeadLetters {
    /// Count the unresolved dead letters by topic, reason and message; also without a word
    Summary,
    /// List dead letters, one a line
    List {
        /// The selected letters.
        #[command(flatten)]
        filter: Box<FilterArgs>,
    },
    /// Show one dead letter, with the place of the fault marked
    ///
    /// Phone numbers are masked, and other texts are left out, unless --reveal or --raw is given.
    Show {
        /// The letter's id
        #[arg(value_parser = id)]
        id: i64,
        /// Show phone numbers and texts as they are
        #[arg(long)]
        reveal: bool,
        /// Write the value's bytes, and nothing else
        #[arg(long, conflicts_with = "reveal")]
        raw: bool,
    },
    /// Take the same records through the daemon's code again
    ///
    /// For a setting or a constraint that was fixed. Exit status 1 if some records still cannot be used.
    Retry {
        /// The selected letters.
        #[command(flatten)]
        filter: Box<FilterArgs>,
        /// How to handle many letters.
        #[command(flatten)]
        bulk: Bulk,
        /// Maximum number of dead letters a second [default: no limit]
        #[arg(long, value_name = "R", value_parser = rate)]
        rate: Option<f64>,
    },
    /// Publish a corrected record to the letter's own topic and partition, and resolve the letter
    ///
    /// Parts that are not changed stay as they were, including the timestamp. The record is checked as the daemon
    /// would check it, and nothing is sent if it still cannot be used. A letter that is fixed already is not sent
    /// again.
    #[command(after_help = FIX_EXAMPLES)]
    Fix(Box<FixArgs>),
    /// Resolve dead letters with a note, and do nothing else
    Discard {
        /// The selected letters.
        #[command(flatten)]
        filter: Box<FilterArgs>,
        /// How to handle many letters.
        #[command(flatten)]
        bulk: Bulk,
        /// The reason, for whoever reads it later
        #[arg(long, value_name = "TEXT")]
        note: String,
    },
    /// Write dead letters to a file or to standard output
    ///
    /// With --reveal, ndjson can be sent again with `publish`; a value that is not a JSON object is base64, with its
    /// place. Without it, phone numbers are masked, and other texts are left out.
    Export {
        /// The selected letters.
        #[command(flatten)]
        filter: Box<FilterArgs>,
        /// ndjson, or csv for a spreadsheet
        #[arg(long, value_enum, default_value_t = Format::Ndjson)]
        format: Format,
        /// Export phone numbers and texts as they are
        #[arg(long)]
        reveal: bool,
        /// A new file, which only its owner may read [default: standard output]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Delete dead letters that are resolved and published
    Purge {
        /// Only letters that were made longer ago than this, such as 90d
        #[arg(long, value_name = "TIME", value_parser = time)]
        older_than: Option<Duration>,
        /// The selected letters.
        #[command(flatten)]
        filter: Box<FilterArgs>,
        /// How to handle many letters.
        #[command(flatten)]
        bulk: Bulk,
    },
    /// Let partitions that DEAD_LETTER_LIMIT stopped go on
    ///
    /// Running daemons follow within 10 s. The dead letters themselves stay as they are.
    Accept {
        /// Only this topic, without TOPIC_PREFIX [default: all]
        #[arg(long, value_parser = topic)]
        topic: Option<Topic>,
        /// Only this partition of the topic [default: all]
        #[arg(long, value_name = "P", value_parser = partition, requires = "topic")]
        partition: Option<i32>,
    },
}

/// One dead letter, and the changes to its record.
#[derive(Debug, Clone, Default, Args)]
pub struct FixArgs {
    /// The letter's id
    #[arg(value_parser = id)]
    pub id: i64,
    /// Set a field of the event (in `data` of a CloudEvents envelope) to this JSON; null means no value
    #[arg(long, value_name = "FIELD=JSON", value_parser = field)]
    pub set: Vec<(String, String)>,
    /// Take the whole value from this file; - is standard input
    #[arg(long, value_name = "FILE")]
    pub value: Option<PathBuf>,
    /// Replace the key
    #[arg(long, value_name = "TEXT")]
    pub key: Option<String>,
    /// Set a header, in place of all others of its name
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// Remove the headers of this name
    #[arg(long = "drop-header", value_name = "NAME")]
    pub drop_headers: Vec<String>,
    /// Set the record's timestamp, such as 2025-06-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = timestamp)]
    pub timestamp: Option<Time>,
    /// Only show what would be published
    #[arg(long)]
    pub dry_run: bool,
}

impl FixArgs {
    /// Whether anything is changed.
    pub fn changes(&self) -> bool {
        let headers = !self.headers.is_empty() || !self.drop_headers.is_empty();
        let value = !self.set.is_empty() || self.value.is_some();
        value || headers || self.key.is_some() || self.timestamp.is_some()
    }
}

/// Selects dead letters. All conditions must hold.
#[derive(Debug, Clone, Default, Args)]
pub struct FilterArgs {
    /// These ids, such as 17 or 17-40 [default: all]
    #[arg(value_name = "ID", value_parser = ids)]
    pub ids: Vec<(i64, i64)>,
    /// Letters of this topic, without TOPIC_PREFIX
    #[arg(long, value_parser = topic)]
    pub topic: Option<Topic>,
    /// Letters of this partition
    #[arg(long, value_name = "P", value_parser = partition)]
    pub partition: Option<i32>,
    /// Letters of these offsets, such as 4711 or 4711..4720, both included
    #[arg(long = "offset", value_name = "A..B", value_parser = offsets)]
    pub offsets: Option<(i64, i64)>,
    /// Letters with this reason
    #[arg(long, value_parser = reason)]
    pub reason: Option<Reason>,
    /// Letters whose message contains this text; % matches any text
    #[arg(long, value_name = "TEXT")]
    pub message_like: Option<String>,
    /// Letters made at this time or later: a time such as 2025-06-01T12:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<Time>,
    /// Letters made before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Time>,
    /// Unresolved or resolved letters, or all of them [default: unresolved; resolved for `purge`]
    #[arg(long, value_enum)]
    pub state: Option<StateArg>,
    /// Maximum number of letters, in the order of their ids
    #[arg(long, value_name = "N", value_parser = positive)]
    pub limit: Option<u64>,
}

impl FilterArgs {
    /// Whether anything narrows the selection: `--state` and `--limit` do not.
    pub fn narrows(&self) -> bool {
        let places = self.topic.is_some() || self.partition.is_some() || self.offsets.is_some();
        let kinds = self.reason.is_some() || self.message_like.is_some();
        !self.ids.is_empty() || places || kinds || self.since.is_some() || self.until.is_some()
    }

    /// The ids, if each is named by itself.
    pub fn named(&self) -> Option<Vec<i64>> {
        let named = !self.ids.is_empty() && self.ids.iter().all(|(first, last)| first == last);
        named.then(|| self.ids.iter().map(|(id, _)| *id).collect())
    }
}

/// Whether a command may change many dead letters at once.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Bulk {
    /// Take every dead letter, if neither id nor filter is given
    #[arg(long)]
    pub all: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Only show what would happen
    #[arg(long)]
    pub dry_run: bool,
}

/// `--state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum StateArg {
    Unresolved,
    Resolved,
    All,
}

/// `--format`: one JSON object a line, or for a spreadsheet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Format {
    Ndjson,
    Csv,
}

fn id(text: &str) -> Result<i64, &'static str> {
    text.parse().ok().filter(|id| *id > 0).ok_or("give an id, such as 17")
}

fn ids(text: &str) -> Result<(i64, i64), &'static str> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (id(first), id(last)) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err("give an id such as 17, or a range such as 17-40"),
    }
}

fn offsets(text: &str) -> Result<(i64, i64), &'static str> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    match (offset(first), offset(last)) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err("give an offset such as 4711, or a range such as 4711..4720"),
    }
}

fn pair(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').filter(|(name, _)| !name.is_empty())
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = pair(text).ok_or("give FIELD=JSON, such as status='\"completed\"'")?;
    if serde_json::from_str::<serde::de::IgnoredAny>(value).is_err() {
        return Err(format!(
            "the value of {name} is not JSON: write a text in quotes, such as {name}='\"text\"'"
        ));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = pair(text).ok_or("give NAME=VALUE, such as ce_type=clone.ready")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn timestamp(text: &str) -> Result<Time, &'static str> {
    Time::parse(text).map_err(|_| "give a time such as 2025-06-01T12:00:00Z")
}

pub(super) fn reason(text: &str) -> Result<Reason, String> {
    let known = Reason::ALL.into_iter().find(|reason| reason.name() == text);
    known.ok_or_else(|| format!("give one of {}", Reason::ALL.map(Reason::name).join(", ")))
}

pub(super) fn moment(text: &str) -> Result<Time, &'static str> {
    let ago = crate::duration::duration(text).map(before_now);
    let time = ago.or_else(|| Time::parse(text).ok());
    time.ok_or("give a time such as 2025-06-01T12:00:00Z, or 2h for two hours ago")
}

/// The time `age` ago.
pub fn before_now(age: Duration) -> Time {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    Time::from_micros(chrono::Utc::now().timestamp_micros().saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_offsets_are_numbers_or_ranges() {
        assert_eq!(ids("17"), Ok((17, 17)));
        assert_eq!(ids("17-40"), Ok((17, 40)));
        assert_eq!(offsets("0..9"), Ok((0, 9)));
        assert_eq!(offsets("7"), Ok((7, 7)));
        for wrong in ["", "0", "-1", "40-17", "1-", "x", "1-2-3"] {
            assert!(ids(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "..", "3..", "9..1", "1-2"] {
            assert!(offsets(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_field_is_set_to_json() {
        assert_eq!(field("a=1").unwrap(), ("a".to_owned(), "1".to_owned()));
        assert_eq!(field("a={\"b\":\"c=d\"}").unwrap().1, "{\"b\":\"c=d\"}");
        assert!(field("status=completed").unwrap_err().contains("status='\"text\"'"));
        for wrong in ["a", "=1", "a="] {
            assert!(field(wrong).is_err(), "{wrong}");
        }
        assert_eq!(header("a=").unwrap(), ("a".to_owned(), String::new()));
        assert!(header("=a").is_err() && timestamp("now").is_err());
    }

    #[test]
    fn a_state_or_a_limit_alone_does_not_narrow_the_choice() {
        let all = FilterArgs { state: Some(StateArg::All), limit: Some(5), ..FilterArgs::default() };
        assert!(!all.narrows());
        assert!(FilterArgs { partition: Some(0), ..FilterArgs::default() }.narrows());
        let range = FilterArgs { ids: vec![(1, 1), (3, 5)], ..FilterArgs::default() };
        assert_eq!(range.named(), None);
        let named = FilterArgs { ids: vec![(1, 1), (3, 3)], ..FilterArgs::default() };
        assert_eq!(named.named(), Some(vec![1, 3]));
    }
}

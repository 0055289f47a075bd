//! The meaning of an error of PostgreSQL for the batch that met it (contract, section 6): the one place that sorts them.
//!
//! Diesel drops the SQLSTATE of an error and keeps a kind for ten of them; diesel-async wraps the driver's error in a
//! private type, and its hooks see no more than that. `docs/design.md` says why neither a patched client nor a reader of
//! the server's bytes is worth it here: errors without a kind are sorted by the beginnings of PostgreSQL's English
//! messages, and an error that no list has is only a reason to try the record, never a verdict.

mod refusal;

use diesel::result::{DatabaseErrorKind, Error};

pub use refusal::{Refusal, Rule};

/// Why a transaction did not land.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The stored offset is not the expected one: another instance has the partition, an earlier commit
    /// whose outcome was unknown has landed, or the database was restored.
    #[error("the stored offset of a partition is not the expected one")]
    Fenced,
    /// PostgreSQL refused a row, or nobody knows why it failed: a reason to try the record, no verdict.
    #[error("{0}")]
    Refused(Refusal),
    /// The transaction was too slow or too large: a smaller one may land.
    #[error("{0}")]
    TooLarge(String),
    /// A table, a column or a right is not as it must be, which no row is at fault for.
    #[error("{0}")]
    Drifted(String),
    /// A lock, a deadlock, a file that cannot be read: something that may pass, and may be one table's trouble only.
    #[error("{0}")]
    Busy(String),
    /// The whole database: not there, read-only, full, shutting down.
    #[error("{0}")]
    Unavailable(String),
}

/// What PostgreSQL says to each further statement after one of its transaction has failed.
const ABORTED: &str = "current transaction is aborted";

impl Fault {
    /// Of what the statements of one transaction failed with, what the others follow from.
    pub(super) fn cause(faults: Vec<Fault>) -> Option<Fault> {
        faults.into_iter().min_by_key(|fault| match fault {
            Fault::Fenced => 0,
            Fault::Refused(_) => 1,
            Fault::Busy(text) if text.contains(ABORTED) => 3,
            _ => 2,
        })
    }

    /// The same, with the table whose statement it came from where the error names none.
    pub(super) fn on(self, table: &str) -> Fault {
        match self {
            Fault::Refused(Refusal { rule, constraint, column, table: None }) => {
                Fault::Refused(Refusal { rule, constraint, column, table: Some(table.to_owned()) })
            }
            other => other,
        }
    }
}

/// What PostgreSQL says where a lock was not to be had in time.
pub const LOCK_TIMEOUT: &str = "canceling statement due to lock timeout";

/// Faults that are no row's.
#[derive(Clone, Copy)]
enum World {
    TooLarge,
    Drifted,
    Busy,
    Unavailable,
}

/// How PostgreSQL's messages begin for which Diesel knows no kind and no row is at fault. `connect` asks for English.
/// Beginnings, not parts: a trigger that refuses a row may say anything. The first that fits counts.
const OF_THE_WORLD: &[(&str, World)] = &[
    ("canceling statement due to statement timeout", World::TooLarge),
    ("terminating connection due to transaction timeout", World::TooLarge),
    ("temporary file size exceeds", World::TooLarge),
    ("out of memory", World::TooLarge),
    ("out of shared memory", World::TooLarge),
    ("invalid memory alloc request size", World::TooLarge),
    ("array size exceeds", World::TooLarge),
    ("permission denied for", World::Drifted),
    ("permission denied to", World::Drifted),
    ("must be owner of", World::Drifted),
    ("there is no unique or exclusion constraint", World::Drifted),
    ("canceling authentication due to", World::Unavailable),
    ("terminating connection", World::Unavailable),
    ("the database system is", World::Unavailable),
    ("could not extend file", World::Unavailable),
    ("could not write", World::Unavailable),
    ("could not fsync", World::Unavailable),
    ("could not fdatasync", World::Unavailable),
    ("sorry, too many clients already", World::Unavailable),
    ("too many connections for", World::Unavailable),
    ("remaining connection slots are reserved", World::Unavailable),
    ("database is not accepting commands", World::Unavailable),
    ("cannot assign TransactionIds", World::Unavailable),
    (LOCK_TIMEOUT, World::Busy),
    ("canceling statement due to", World::Busy),
    ("deadlock detected", World::Busy),
    ("could not obtain lock", World::Busy),
    ("could not open", World::Busy),
    ("could not read", World::Busy),
    ("could not access", World::Busy),
    ("could not create", World::Busy),
    ("could not remove", World::Busy),
    ("could not rename", World::Busy),
    ("could not seek", World::Busy),
    ("could not stat", World::Busy),
    ("could not resize", World::Busy),
    ("could not map", World::Busy),
    ("could not load library", World::Busy),
    ("could not connect to", World::Busy),
    ("could not establish connection", World::Busy),
    (ABORTED, World::Busy),
    ("cached plan must not change result type", World::Busy),
    ("cache lookup failed for", World::Busy),
    ("tuple concurrently updated", World::Busy),
    ("tuple concurrently deleted", World::Busy),
    ("invalid page in block", World::Busy),
    ("missing chunk number", World::Busy),
    ("unexpected chunk number", World::Busy),
    ("unexpected data beyond EOF", World::Busy),
    // a pooler that mixes sessions up
    ("prepared statement", World::Busy),
    ("unnamed prepared statement", World::Busy),
    ("bind message supplies", World::Busy),
    ("bind message has", World::Busy),
    ("incorrect binary data format in bind parameter", World::Busy),
    ("insufficient data left in message", World::Busy),
];

/// The same for messages that begin with an object's kind and go on with what is wrong with it.
const OF_THE_WORLD_BETWEEN: &[(&str, &str, World)] = &[
    ("relation \"", "does not exist", World::Drifted),
    ("column ", "does not exist", World::Drifted),
    ("column \"", "is of type", World::Drifted),
    ("schema \"", "does not exist", World::Drifted),
    ("database \"", "does not exist", World::Drifted),
    ("role \"", "does not exist", World::Drifted),
    ("type \"", "does not exist", World::Drifted),
    ("function ", "does not exist", World::Drifted),
    ("operator does not exist", "", World::Drifted),
    ("cannot execute ", "in a read-only transaction", World::Unavailable),
    ("cannot execute ", "during recovery", World::Unavailable),
];

/// What the message of an unnamed kind says is wrong with the world, in words that quote nothing but names.
fn of_the_world(message: &str) -> Option<(String, World)> {
    if let Some((known, world)) = OF_THE_WORLD.iter().find(|(known, _)| message.starts_with(known)) {
        return Some(((*known).to_owned(), *world));
    }
    let (begin, end, world) = OF_THE_WORLD_BETWEEN
        .iter()
        .find(|(begin, end, _)| message.strip_prefix(begin).is_some_and(|rest| rest.contains(end)))?;
    let name = named_column(message).map(|name| format!(" {name}")).unwrap_or_default();
    Some((format!("{}{name} {end}", begin.trim_end_matches([' ', '"'])).trim_end().to_owned(), *world))
}

/// The column that a message names with one of this program's tables, where it looks like a name.
fn named_column(message: &str) -> Option<&str> {
    let (column, rest) = message.strip_prefix("column \"")?.split_once('"')?;
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    let known = super::rights::tables().any(|table| rest.contains(&format!("\"{table}\"")));
    (known && column.starts_with(plain) && column.chars().all(|c| plain(c) || c.is_ascii_digit()))
        .then_some(column)
}

/// What `migrate` says where its connection is refused or gets no answer.
pub(super) const NO_CONNECTION: &str = "no connection to the database";

/// Parts of the messages of what passes by itself: from `migrate`, from PostgreSQL, and from the driver.
const PASSING: &[&str] = &[
    NO_CONNECTION,
    "connection closed",
    "error communicating with the server",
    "terminating connection",
    "the database system is",
    "canceling statement due to",
    "deadlock detected",
    "No space left on device",
    "out of memory",
    "out of shared memory",
    "too many clients",
    "remaining connection slots",
];

/// Whether what a migration failed with passes by itself, so that trying again may do; else a person is needed.
/// Diesel's migrations hide the kind of error in boxes: its text is looked at.
pub fn passes(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    PASSING.iter().any(|part| text.contains(part))
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        use DatabaseErrorKind as Kind;
        let (kind, information) = match &error {
            Error::DatabaseError(kind, information) => (kind, information),
            // a column whose type is another one: the driver's words, which name types
            Error::DeserializationError(_) => return Fault::Drifted(format!("PostgreSQL: {error}")),
            _ => return Fault::Unavailable(format!("PostgreSQL: {error}")),
        };
        let message = information.message();
        match kind {
            Kind::UniqueViolation
            | Kind::ForeignKeyViolation
            | Kind::NotNullViolation
            | Kind::CheckViolation
            | Kind::ExclusionViolation
            | Kind::RestrictViolation => Fault::Refused(Refusal::new(kind, information.as_ref())),
            // the driver's words on a value that is too long for its protocol, and on the connection
            Kind::UnableToSendCommand if message.starts_with("error serializing parameter") => {
                Fault::TooLarge(format!("PostgreSQL: {message}"))
            }
            Kind::UnableToSendCommand | Kind::ClosedConnection => {
                Fault::Unavailable(format!("PostgreSQL: {message}"))
            }
            Kind::ReadOnlyTransaction => Fault::Unavailable("PostgreSQL takes no writes (read-only)".into()),
            Kind::Unknown => match of_the_world(message) {
                None => Fault::Refused(Refusal::new(kind, information.as_ref())),
                Some((words, world)) => {
                    let text = format!("PostgreSQL: {words}{}", named_table(message));
                    match world {
                        World::TooLarge => Fault::TooLarge(text),
                        World::Drifted => Fault::Drifted(text),
                        World::Busy => Fault::Busy(text),
                        World::Unavailable => Fault::Unavailable(text),
                    }
                }
            },
            kind => Fault::Busy(format!("PostgreSQL: {kind:?}")),
        }
    }
}

/// The table of this program's that a message names, if any. More of a message is not told: it may quote a row, as a
/// trigger's may say anything.
fn named_table(message: &str) -> String {
    let table = super::rights::tables().find(|table| message.contains(table));
    table.map(|table| format!(" ({table})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(rule: Rule, names: [Option<&str>; 3]) -> Refusal {
        let [constraint, column, table] = names.map(|name| name.map(str::to_owned));
        Refusal { rule, constraint, column, table }
    }

    #[test]
    fn of_several_faults_the_one_counts_that_the_others_follow_from() {
        let refused = Fault::Refused(refusal(Rule::Check, [None; 3]));
        let aborted = || Fault::Busy(format!("PostgreSQL: {ABORTED}"));
        let away = || Fault::Unavailable("PostgreSQL: connection closed".into());
        assert_eq!(Fault::cause(vec![]), None);
        assert_eq!(Fault::cause(vec![aborted(), refused.clone(), aborted()]), Some(refused.clone()));
        assert_eq!(Fault::cause(vec![refused, Fault::Fenced]), Some(Fault::Fenced));
        assert_eq!(Fault::cause(vec![aborted(), away()]), Some(away()));
    }

    #[test]
    fn the_table_of_the_statement_is_named_where_the_error_names_none() {
        let unnamed = Fault::Refused(refusal(Rule::Unnamed(None), [None; 3]));
        assert!(unnamed.on("call_log").to_string().ends_with(" of table call_log"));
        let named = Fault::Refused(refusal(Rule::Check, [Some("c"), None, Some("call_log")]));
        assert_eq!(named.clone().on("voice_clone_log"), named);
    }

    #[test]
    fn a_message_is_told_only_as_far_as_it_is_known_to_quote_nothing() {
        let told = |message: &str| of_the_world(message).map(|(text, _)| text);
        assert_eq!(told("the account of +15550100 does not exist"), None);
        assert_eq!(
            told("could not connect to server \"crm\" for +15550100").unwrap(),
            "could not connect to"
        );
        assert_eq!(
            told("column \"tenant_id\" of relation \"call_log\" does not exist").unwrap(),
            "column tenant_id does not exist"
        );
        assert_eq!(
            told("column \"15550100\" of relation \"call_log\" does not exist").unwrap(),
            "column does not exist"
        );
        assert_eq!(told("relation \"public.callers\" does not exist").unwrap(), "relation does not exist");
    }
}

//! Classifies PostgreSQL's errors for the batch that met them (contract, section 6).
//!
//! Diesel drops the SQLSTATE of an error and keeps a kind for ten of them. diesel-async wraps the driver's error in a
//! private type, and its hooks see no more than that. `docs/design.md` says why neither a patched client nor a reader
//! of the server's bytes is worth it here. Errors without a kind are classified by the beginnings of PostgreSQL's
//! English messages. An error that no list has is only a reason to try the record, never a verdict.

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
    /// PostgreSQL refused a row, or the error is not classified: a reason to try the record, no verdict.
    #[error("{0}")]
    Refused(Refusal),
    /// The transaction was too slow or too large: a smaller one may land.
    #[error("{0}")]
    TooLarge(String),
    /// A table, a column or a privilege is not as required. No row is at fault.
    #[error("{0}")]
    Drifted(String),
    /// A lock, a deadlock, an unreadable file: it may pass, and may affect one table only.
    #[error("{0}")]
    Busy(String),
    /// The whole database: unreachable, read-only, full or shutting down.
    #[error("{0}")]
    Unavailable(String),
}

/// PostgreSQL's error for every statement of a transaction after one of them has failed.
const ABORTED: &str = "current transaction is aborted";

impl Fault {
    /// The kind of the fault in one word, for `error.type` of a span.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::Fenced => "fenced",
            Fault::Refused(_) => "refused",
            Fault::TooLarge(_) => "too_large",
            Fault::Drifted(_) => "drift",
            Fault::Busy(_) => "busy",
            Fault::Unavailable(_) => "unavailable",
        }
    }

    /// The root cause among the errors of one transaction's statements.
    pub(super) fn root_cause(faults: Vec<Fault>) -> Option<Fault> {
        faults.into_iter().min_by_key(|fault| match fault {
            Fault::Fenced => 0,
            Fault::Refused(_) => 1,
            Fault::Busy(text) if text.contains(ABORTED) => 3,
            _ => 2,
        })
    }

    /// The same fault, with the table of its statement if the error names none.
    pub(super) fn on(self, table: &str) -> Fault {
        match self {
            Fault::Refused(Refusal { rule, constraint, column, table: None }) => {
                Fault::Refused(Refusal { rule, constraint, column, table: Some(table.to_owned()) })
            }
            other => other,
        }
    }
}

/// PostgreSQL's message when a lock could not be had in time.
pub const LOCK_TIMEOUT: &str = "canceling statement due to lock timeout";

/// Faults of the infrastructure, which no row is to blame for.
#[derive(Clone, Copy)]
enum Infrastructure {
    TooLarge,
    Drifted,
    Busy,
    Unavailable,
}

/// Beginnings of PostgreSQL's messages for which Diesel has no kind and no row is at fault. `connect` asks for
/// English. They are beginnings, not parts, as a trigger that refuses a row may say anything. The first match counts.
const MESSAGES_BY_START: &[(&str, Infrastructure)] = &[
    ("canceling statement due to statement timeout", Infrastructure::TooLarge),
    ("terminating connection due to transaction timeout", Infrastructure::TooLarge),
    ("temporary file size exceeds", Infrastructure::TooLarge),
    ("out of memory", Infrastructure::TooLarge),
    ("out of shared memory", Infrastructure::TooLarge),
    ("invalid memory alloc request size", Infrastructure::TooLarge),
    ("array size exceeds", Infrastructure::TooLarge),
    ("permission denied for", Infrastructure::Drifted),
    ("permission denied to", Infrastructure::Drifted),
    ("must be owner of", Infrastructure::Drifted),
    ("there is no unique or exclusion constraint", Infrastructure::Drifted),
    ("canceling authentication due to", Infrastructure::Unavailable),
    ("terminating connection", Infrastructure::Unavailable),
    ("the database system is", Infrastructure::Unavailable),
    ("could not extend file", Infrastructure::Unavailable),
    ("could not write", Infrastructure::Unavailable),
    ("could not fsync", Infrastructure::Unavailable),
    ("could not fdatasync", Infrastructure::Unavailable),
    ("sorry, too many clients already", Infrastructure::Unavailable),
    ("too many connections for", Infrastructure::Unavailable),
    ("remaining connection slots are reserved", Infrastructure::Unavailable),
    ("database is not accepting commands", Infrastructure::Unavailable),
    ("cannot assign TransactionIds", Infrastructure::Unavailable),
    (LOCK_TIMEOUT, Infrastructure::Busy),
    ("canceling statement due to", Infrastructure::Busy),
    ("deadlock detected", Infrastructure::Busy),
    ("could not obtain lock", Infrastructure::Busy),
    ("could not open", Infrastructure::Busy),
    ("could not read", Infrastructure::Busy),
    ("could not access", Infrastructure::Busy),
    ("could not create", Infrastructure::Busy),
    ("could not remove", Infrastructure::Busy),
    ("could not rename", Infrastructure::Busy),
    ("could not seek", Infrastructure::Busy),
    ("could not stat", Infrastructure::Busy),
    ("could not resize", Infrastructure::Busy),
    ("could not map", Infrastructure::Busy),
    ("could not load library", Infrastructure::Busy),
    ("could not connect to", Infrastructure::Busy),
    ("could not establish connection", Infrastructure::Busy),
    (ABORTED, Infrastructure::Busy),
    ("cached plan must not change result type", Infrastructure::Busy),
    ("cache lookup failed for", Infrastructure::Busy),
    ("tuple concurrently updated", Infrastructure::Busy),
    ("tuple concurrently deleted", Infrastructure::Busy),
    ("invalid page in block", Infrastructure::Busy),
    ("missing chunk number", Infrastructure::Busy),
    ("unexpected chunk number", Infrastructure::Busy),
    ("unexpected data beyond EOF", Infrastructure::Busy),
    // from a pooler that mixes sessions up
    ("prepared statement", Infrastructure::Busy),
    ("unnamed prepared statement", Infrastructure::Busy),
    ("bind message supplies", Infrastructure::Busy),
    ("bind message has", Infrastructure::Busy),
    ("incorrect binary data format in bind parameter", Infrastructure::Busy),
    ("insufficient data left in message", Infrastructure::Busy),
];

/// Messages that begin with an object's kind and contain the problem.
const MESSAGES_BY_START_AND_PART: &[(&str, &str, Infrastructure)] = &[
    ("relation \"", "does not exist", Infrastructure::Drifted),
    ("column ", "does not exist", Infrastructure::Drifted),
    ("column \"", "is of type", Infrastructure::Drifted),
    ("schema \"", "does not exist", Infrastructure::Drifted),
    ("database \"", "does not exist", Infrastructure::Drifted),
    ("role \"", "does not exist", Infrastructure::Drifted),
    ("type \"", "does not exist", Infrastructure::Drifted),
    ("function ", "does not exist", Infrastructure::Drifted),
    ("operator does not exist", "", Infrastructure::Drifted),
    ("cannot execute ", "in a read-only transaction", Infrastructure::Unavailable),
    ("cannot execute ", "during recovery", Infrastructure::Unavailable),
];

/// The fault of the infrastructure that the message of an unnamed kind describes, in words that quote nothing but
/// names.
fn infrastructure_fault(message: &str) -> Option<(String, Infrastructure)> {
    if let Some((known, class)) = MESSAGES_BY_START.iter().find(|(known, _)| message.starts_with(known)) {
        return Some(((*known).to_owned(), *class));
    }
    let (begin, end, class) = MESSAGES_BY_START_AND_PART
        .iter()
        .find(|(begin, end, _)| message.strip_prefix(begin).is_some_and(|rest| rest.contains(end)))?;
    let name = named_column(message).map(|name| format!(" {name}")).unwrap_or_default();
    Some((format!("{}{name} {end}", begin.trim_end_matches([' ', '"'])).trim_end().to_owned(), *class))
}

/// The column that a message names together with one of this program's tables, if it looks like a name.
fn named_column(message: &str) -> Option<&str> {
    let (column, rest) = message.strip_prefix("column \"")?.split_once('"')?;
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    let known = super::rights::tables().any(|table| rest.contains(&format!("\"{table}\"")));
    (known && column.starts_with(plain) && column.chars().all(|c| plain(c) || c.is_ascii_digit()))
        .then_some(column)
}

/// The message of `migrate` when its connection is refused or gets no answer.
pub(super) const NO_CONNECTION: &str = "no connection to the database";

/// Parts of the messages of transient errors: from `migrate`, from PostgreSQL, and from the driver.
const TRANSIENT: &[&str] = &[
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

/// Whether a migration failed for a transient reason, so that a retry may succeed; otherwise a person is needed.
/// Diesel's migrations box their errors, so the text is read.
pub fn is_transient(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    TRANSIENT.iter().any(|part| text.contains(part))
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        use DatabaseErrorKind as Kind;
        let (kind, information) = match &error {
            Error::DatabaseError(kind, information) => (kind, information),
            // a column of another type: the driver's message names types only
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
            // the driver's messages about a value too long for its protocol, and about the connection
            Kind::UnableToSendCommand if message.starts_with("error serializing parameter") => {
                Fault::TooLarge(format!("PostgreSQL: {message}"))
            }
            Kind::UnableToSendCommand | Kind::ClosedConnection => {
                Fault::Unavailable(format!("PostgreSQL: {message}"))
            }
            Kind::ReadOnlyTransaction => Fault::Unavailable("PostgreSQL takes no writes (read-only)".into()),
            Kind::Unknown => match infrastructure_fault(message) {
                None => Fault::Refused(Refusal::new(kind, information.as_ref())),
                Some((words, class)) => {
                    let text = format!("PostgreSQL: {words}{}", named_table(message));
                    match class {
                        Infrastructure::TooLarge => Fault::TooLarge(text),
                        Infrastructure::Drifted => Fault::Drifted(text),
                        Infrastructure::Busy => Fault::Busy(text),
                        Infrastructure::Unavailable => Fault::Unavailable(text),
                    }
                }
            },
            kind => Fault::Busy(format!("PostgreSQL: {kind:?}")),
        }
    }
}

/// The table of this program that a message names, if any. The rest of a message is not shown: it may quote a row,
/// and a trigger's message may say anything.
fn named_table(message: &str) -> String {
    let table = super::rights::tables().find(|table| message.contains(table));
    table.map(|table| format!(" ({table})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::refusal::tests::refusal;
    use super::*;

    #[test]
    fn the_root_cause_of_several_faults_counts() {
        let refused = Fault::Refused(refusal(Rule::Check, [None; 3]));
        let aborted = || Fault::Busy(format!("PostgreSQL: {ABORTED}"));
        let away = || Fault::Unavailable("PostgreSQL: connection closed".into());
        assert_eq!(Fault::root_cause(vec![]), None);
        assert_eq!(Fault::root_cause(vec![aborted(), refused.clone(), aborted()]), Some(refused.clone()));
        assert_eq!(Fault::root_cause(vec![refused, Fault::Fenced]), Some(Fault::Fenced));
        assert_eq!(Fault::root_cause(vec![aborted(), away()]), Some(away()));
    }

    #[test]
    fn the_table_of_the_statement_is_named_where_the_error_names_none() {
        let unnamed = Fault::Refused(refusal(Rule::Unnamed(None), [None; 3]));
        assert!(unnamed.on("call_log").to_string().ends_with(" of table call_log"));
        let named = Fault::Refused(refusal(Rule::Check, [Some("c"), None, Some("call_log")]));
        assert_eq!(named.clone().on("voice_clone_log"), named);
    }

    #[test]
    fn a_message_is_shown_only_as_far_as_it_is_known_to_quote_nothing() {
        let shown = |message: &str| infrastructure_fault(message).map(|(text, _)| text);
        assert_eq!(shown("the account of +15550100 does not exist"), None);
        assert_eq!(
            shown("could not connect to server \"crm\" for +15550100").unwrap(),
            "could not connect to"
        );
        assert_eq!(
            shown("column \"tenant_id\" of relation \"call_log\" does not exist").unwrap(),
            "column tenant_id does not exist"
        );
        assert_eq!(
            shown("column \"15550100\" of relation \"call_log\" does not exist").unwrap(),
            "column does not exist"
        );
        assert_eq!(shown("relation \"public.callers\" does not exist").unwrap(), "relation does not exist");
    }
}

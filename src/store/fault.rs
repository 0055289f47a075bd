//! What an error of PostgreSQL means for the batch in hand (contract, section 6): the one place that
//! tells a refused row from an outage.

use diesel::result::{DatabaseErrorKind, Error};

/// Why a transaction did not land.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The stored offset is not the expected one: another instance has the partition, an earlier commit
    /// whose outcome was unknown has landed, or the database was restored.
    #[error("the stored offset of a partition is not the expected one")]
    Fenced,
    /// PostgreSQL refused a row. `certain` where the kind of error leaves no doubt.
    #[error("PostgreSQL refused a row: {message}")]
    Refused {
        /// Names the constraint, table or column; never quotes a value.
        message: String,
        /// False where the error might also be the world's.
        certain: bool,
    },
    /// Something is wrong with the world: try again.
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
            Fault::Refused { .. } => 1,
            Fault::Unavailable(text) => {
                if text.contains(ABORTED) {
                    3
                } else {
                    2
                }
            }
        })
    }
}

/// How PostgreSQL's messages begin for which Diesel knows no kind and no row is at fault. SQLSTATEs are lost on
/// the way, so `connect` asks for English. Beginnings, not parts: a trigger that refuses a row may say anything.
const OF_THE_WORLD: &[&str] = &[
    "deadlock detected",
    "canceling statement due to",
    "canceling authentication due to",
    "could not obtain lock",
    "terminating connection",
    "the database system is",
    "could not extend file",
    "could not write",
    "could not open",
    "could not read",
    "could not access",
    "could not create",
    "could not remove",
    "could not rename",
    "could not seek",
    "could not stat",
    "could not fsync",
    "could not fdatasync",
    "could not resize",
    "could not map",
    "could not load library",
    "temporary file size exceeds",
    "out of memory",
    "out of shared memory",
    "sorry, too many clients already",
    "too many connections for",
    "remaining connection slots are reserved",
    "permission denied for",
    "permission denied to",
    "must be owner of",
    ABORTED,
    "cached plan must not change result type",
    "database is not accepting commands",
    "cannot assign TransactionIds",
    "cache lookup failed for",
    "tuple concurrently updated",
    "tuple concurrently deleted",
    "invalid page in block",
    "missing chunk number",
    "unexpected chunk number",
    "unexpected data beyond EOF",
];

/// The same for messages that begin with an object's kind and end with what is wrong with it.
const OF_THE_WORLD_BETWEEN: &[(&str, &str)] = &[
    ("relation \"", "does not exist"),
    ("column ", "does not exist"),
    ("schema \"", "does not exist"),
    ("database \"", "does not exist"),
    ("role \"", "does not exist"),
    ("type \"", "does not exist"),
    ("function ", "does not exist"),
    ("operator does not exist", ""),
    ("cannot execute ", "in a read-only transaction"),
    ("cannot execute ", "during recovery"),
];

/// What the message of an unnamed kind says is wrong with the world, in words of this program's own.
fn of_the_world(message: &str) -> Option<String> {
    if let Some(known) = OF_THE_WORLD.iter().find(|known| message.starts_with(**known)) {
        return Some((*known).to_owned());
    }
    let (begin, end) = OF_THE_WORLD_BETWEEN
        .iter()
        .find(|(begin, end)| message.starts_with(begin) && message.ends_with(end))?;
    Some(format!("{} ... {end}", begin.trim_end_matches([' ', '"'])))
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
        let Error::DatabaseError(kind, information) = &error else {
            return Fault::Unavailable(describe(&error));
        };
        match kind {
            Kind::UniqueViolation
            | Kind::ForeignKeyViolation
            | Kind::NotNullViolation
            | Kind::CheckViolation
            | Kind::ExclusionViolation
            | Kind::RestrictViolation => {
                let named = [
                    ("table", information.table_name()),
                    ("column", information.column_name()),
                    ("constraint", information.constraint_name()),
                ];
                let named: Vec<String> = named
                    .into_iter()
                    .filter_map(|(what, name)| name.map(|name| format!("{what} {name}")))
                    .collect();
                // a trigger may raise one without a name
                let of = if named.is_empty() { String::new() } else { format!(" of {}", named.join(", ")) };
                Fault::Refused { message: format!("{kind:?}{of}"), certain: true }
            }
            Kind::Unknown if of_the_world(information.message()).is_none() => {
                Fault::Refused { message: "see PostgreSQL's own log".into(), certain: false }
            }
            _ => Fault::Unavailable(describe(&error)),
        }
    }
}

/// An error for the log. A message of PostgreSQL's may quote a row, as a trigger's may say anything: of those with no
/// kind only what is known beforehand is told, and the table that is named, if any.
fn describe(error: &Error) -> String {
    use DatabaseErrorKind as Kind;
    let (kind, information) = match error {
        Error::DatabaseError(kind, information) => (kind, information),
        // such as a value that cannot be decoded: the driver's words, which name types
        other => return format!("PostgreSQL: {other}"),
    };
    let message = information.message();
    match kind {
        // the driver's words, on the connection
        Kind::UnableToSendCommand | Kind::ClosedConnection => format!("PostgreSQL: {message}"),
        Kind::Unknown => {
            let known = of_the_world(message).unwrap_or_else(|| "see its own log".to_owned());
            let table = super::rights::tables().find(|table| message.contains(table));
            let table = table.map(|table| format!(" ({table})")).unwrap_or_default();
            format!("PostgreSQL: {known}{table}")
        }
        kind => format!("PostgreSQL: {kind:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_faults_the_one_counts_that_the_others_follow_from() {
        let refused = Fault::Refused { message: "a row".into(), certain: true };
        let aborted = || Fault::Unavailable(format!("PostgreSQL: {ABORTED}"));
        let away = || Fault::Unavailable("PostgreSQL: connection closed".into());
        assert_eq!(Fault::cause(vec![]), None);
        assert_eq!(Fault::cause(vec![aborted(), refused.clone(), aborted()]), Some(refused.clone()));
        assert_eq!(Fault::cause(vec![refused, Fault::Fenced]), Some(Fault::Fenced));
        assert_eq!(Fault::cause(vec![aborted(), away()]), Some(away()));
    }
}

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

/// Beginnings and parts of PostgreSQL's messages for which Diesel knows no kind and no row is at fault.
/// SQLSTATEs are lost on the way, so `connect` asks for English.
const OF_THE_WORLD: &[&str] = &[
    "deadlock detected",
    "canceling statement due to",
    "canceling authentication due to",
    "could not obtain lock",
    "terminating connection",
    "the database system is",
    "No space left on device",
    "could not extend file",
    "could not write",
    "could not open",
    "could not read",
    "could not access",
    "could not fsync",
    "could not resize",
    "out of memory",
    "out of shared memory",
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "permission denied",
    "does not exist",
    "current transaction is aborted",
    "cached plan must not change result type",
    "cannot execute",
    "read-only",
    "wraparound",
    "must be owner",
    "not accepting",
];

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
                Fault::Refused { message: format!("{kind:?} of {}", named.join(", ")), certain: true }
            }
            Kind::Unknown if OF_THE_WORLD.iter().all(|part| !information.message().contains(part)) => {
                Fault::Refused { message: "see PostgreSQL's own log".into(), certain: false }
            }
            _ => Fault::Unavailable(describe(&error)),
        }
    }
}

/// An error for the log. PostgreSQL's main message of the faults that come here names objects and states,
/// and the details, which may quote rows, are left out.
fn describe(error: &Error) -> String {
    match error {
        Error::DatabaseError(_, information) => format!("PostgreSQL: {}", information.message()),
        other => format!("PostgreSQL: {other}"),
    }
}

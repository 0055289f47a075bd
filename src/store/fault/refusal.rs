//! The rule of a table that a row broke, as far as PostgreSQL's error names it.

use std::fmt;

use diesel::result::{DatabaseErrorInformation, DatabaseErrorKind};

/// A rule that a row broke, as far as the error names it. It quotes no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of rule.
    pub rule: Rule,
    /// The constraint, index or foreign key.
    pub constraint: Option<String>,
    /// The column.
    pub column: Option<String>,
    /// The table.
    pub table: Option<String>,
}

/// Kinds of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A unique index or constraint.
    Unique,
    /// A foreign key.
    ForeignKey,
    /// NOT NULL.
    NotNull,
    /// A CHECK constraint.
    Check,
    /// An exclusion constraint.
    Exclusion,
    /// The bounds of a partitioned table's partitions.
    Partitions,
    /// An error without a kind, with the beginning of its message if that is known to quote nothing.
    Unnamed(Option<&'static str>),
}

impl Refusal {
    pub(super) fn new(
        kind: &DatabaseErrorKind,
        information: &(dyn DatabaseErrorInformation + Send + Sync),
    ) -> Refusal {
        use DatabaseErrorKind as Kind;
        let owned = |name: Option<&str>| name.map(str::to_owned);
        let (constraint, table) = (owned(information.constraint_name()), owned(information.table_name()));
        let rule = match kind {
            Kind::UniqueViolation => Rule::Unique,
            Kind::ForeignKeyViolation | Kind::RestrictViolation => Rule::ForeignKey,
            Kind::NotNullViolation => Rule::NotNull,
            // PostgreSQL gives bounds of partitions the SQLSTATE of a CHECK, with a table and no constraint.
            Kind::CheckViolation if constraint.is_none() && table.is_some() => Rule::Partitions,
            Kind::CheckViolation => Rule::Check,
            Kind::ExclusionViolation => Rule::Exclusion,
            _ => {
                let message = information.message();
                Rule::Unnamed(QUOTABLE.iter().find(|known| message.starts_with(**known)).copied())
            }
        };
        Refusal { rule, constraint, column: owned(information.column_name()), table }
    }

    /// Whether the error has a kind of its own. Without one it may be a fault of the infrastructure in a language
    /// that is not read here.
    pub fn is_named(&self) -> bool {
        !matches!(self.rule, Rule::Unnamed(_))
    }

    /// Whether the rule is of a kind that the schema document does not have and that no record is ever at fault for.
    pub fn is_never_a_records_fault(&self) -> bool {
        matches!(self.rule, Rule::ForeignKey | Rule::Partitions)
    }

    /// The remedy if good rows are refused.
    pub fn remedy(&self) -> &'static str {
        match self.rule {
            Rule::NotNull => "give the column a default, or drop its NOT NULL",
            Rule::Check => "correct the constraint, or drop it",
            Rule::Unique | Rule::Exclusion => "drop it, as events may repeat its values",
            Rule::ForeignKey => "drop it, or fill the table that it refers to",
            Rule::Partitions => "create the partition that is missing",
            Rule::Unnamed(_) => {
                "look at PostgreSQL's own log, and at the table's triggers, types and indexes"
            }
        }
    }
}

/// For example `CHECK constraint sound of table clone_failed_events`.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.rule {
            Rule::Unique => "unique index",
            Rule::ForeignKey => "foreign key",
            Rule::NotNull => "NOT NULL",
            Rule::Check => "CHECK constraint",
            Rule::Exclusion => "exclusion constraint",
            Rule::Partitions => "no partition for the row",
            Rule::Unnamed(Some(words)) => words,
            Rule::Unnamed(None) => "an error that only PostgreSQL's own log explains",
        })?;
        if let Some(constraint) = &self.constraint {
            write!(f, " {constraint}")?;
        }
        if let Some(column) = &self.column {
            write!(f, " of column {column}")?;
        }
        if let Some(table) = &self.table {
            write!(f, " of table {table}")?;
        }
        Ok(())
    }
}

/// Beginnings of messages about rows that quote no value.
const QUOTABLE: &[&str] = &[
    "value too long for type",
    "smallint out of range",
    "integer out of range",
    "numeric field overflow",
    "division by zero",
    "index row size",
    "index row requires",
    "row is too big",
    "invalid input syntax for type",
    "invalid byte sequence for encoding",
    "unsupported Unicode escape sequence",
    "stack depth limit exceeded",
];

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn refusal(rule: Rule, names: [Option<&str>; 3]) -> Refusal {
        let [constraint, column, table] = names.map(|name| name.map(str::to_owned));
        Refusal { rule, constraint, column, table }
    }

    #[test]
    fn a_refusal_names_constraint_column_and_table() {
        for (rule, names, text) in [
            (
                Rule::Check,
                [Some("sound"), None, Some("call_log")],
                "CHECK constraint sound of table call_log",
            ),
            (
                Rule::NotNull,
                [None, Some("tenant_id"), Some("call_log")],
                "NOT NULL of column tenant_id of table call_log",
            ),
            (Rule::Partitions, [None, None, Some("call_log")], "no partition for the row of table call_log"),
            (Rule::Unnamed(Some("division by zero")), [None; 3], "division by zero"),
        ] {
            assert_eq!(refusal(rule, names).to_string(), text);
        }
    }
}

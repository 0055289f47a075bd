//! The reasons why a record cannot be used (contract, section 6).

use std::fmt;

/// The reason why a record cannot be used (contract, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The value is not JSON, or is JSON that the contract rules out.
    InvalidJson,
    /// The value, or the envelope's `data`, is not an object.
    NotAnObject,
    /// A required field is absent, null or blank.
    MissingField,
    /// A field has the wrong JSON type.
    InvalidType,
    /// A field has the right type and an impossible value.
    InvalidValue,
    /// A text is longer than its column.
    TooLong,
    /// A text holds U+0000, which PostgreSQL cannot store.
    NulCharacter,
    /// A null value that is not a delete.
    Tombstone,
    /// The value is larger than `RECORD_MAX_BYTES`, or key and headers exceed the limits of the contract.
    TooLarge,
    /// The envelope's `type` is that of another topic.
    WrongTypeForTopic,
    /// PostgreSQL refused the row for good.
    RejectedByDatabase,
}

impl Reason {
    /// All reasons, in the order of the contract.
    pub const ALL: [Reason; 11] = [
        Reason::InvalidJson,
        Reason::NotAnObject,
        Reason::MissingField,
        Reason::InvalidType,
        Reason::InvalidValue,
        Reason::TooLong,
        Reason::NulCharacter,
        Reason::Tombstone,
        Reason::TooLarge,
        Reason::WrongTypeForTopic,
        Reason::RejectedByDatabase,
    ];

    /// Returns the reason's name in the dead letter.
    pub fn name(self) -> &'static str {
        match self {
            Reason::InvalidJson => "invalid_json",
            Reason::NotAnObject => "not_an_object",
            Reason::MissingField => "missing_field",
            Reason::InvalidType => "invalid_type",
            Reason::InvalidValue => "invalid_value",
            Reason::TooLong => "too_long",
            Reason::NulCharacter => "nul_character",
            Reason::Tombstone => "tombstone",
            Reason::TooLarge => "too_large",
            Reason::WrongTypeForTopic => "wrong_type_for_topic",
            Reason::RejectedByDatabase => "rejected_by_database",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A record that cannot be used: the reason, and a message that names the field and quotes no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The reason.
    pub reason: Reason,
    /// The message for a person. Contains no personal data.
    pub message: String,
}

impl Unusable {
    /// Combines a reason and a message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Unusable {
        Unusable { reason, message: message.into() }
    }
}

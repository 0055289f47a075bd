//! Row ids: a row is identified by its fact, not by its delivery (contract, section 3).

use uuid::Uuid;

/// The namespace of all ids.
const NS: Uuid = Uuid::from_u128(0x32912be5_e948_560b_b792_7dcb8baa72b1);

/// Joins the parts of an id. A text that is part of one must not contain it.
pub const SEPARATOR: char = '\u{1f}';

/// `uid(kind, a, b, ...)`: the UUIDv5 of `kind` and the parts, joined with [`SEPARATOR`].
pub fn uid(kind: &str, parts: &[&str]) -> Uuid {
    let mut name = String::with_capacity(kind.len() + parts.iter().map(|part| part.len() + 1).sum::<usize>());
    name.push_str(kind);
    for part in parts {
        name.push(SEPARATOR);
        name.push_str(part);
    }
    Uuid::new_v5(&NS, name.as_bytes())
}

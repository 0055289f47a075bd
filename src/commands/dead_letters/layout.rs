//! A letter as text or as JSON. No I/O.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::commands::view::{RecordView, printable};
use crate::store::letters::Letter;

/// The whole letter as text.
pub fn text(letter: &Letter, reveal: bool) -> String {
    let head = &letter.head;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<11}{value}");
    };
    line("id", &head.id.to_string());
    line("place", &head.place());
    line("timestamp", head.record_timestamp.as_deref().unwrap_or("none"));
    line("reason", &head.reason);
    line("message", &printable(&head.message));
    line("made", &head.created_at);
    let resolved = head.resolved_at.as_ref().map_or_else(String::new, |at| format!(" at {at}"));
    line("state", &format!("{}{resolved}", head.state()));
    if let Some(note) = &head.note {
        line("note", &printable(note));
    }
    if let Some(at) = &head.last_tried_at {
        line("tried", &format!("{} times, the last one at {at}", head.tries));
    }
    let published = head.published_at.as_ref().map_or("not yet".to_owned(), |at| format!("at {at}"));
    line("published", &published);
    if let Some(why) = &head.unpublishable {
        line("refused", &printable(why));
    }
    let headers = letter.headers();
    let (key, value) = (letter.key.as_deref(), letter.value.as_deref());
    text.push_str(&RecordView::new(key, value, &headers, Some(&head.message), reveal).text());
    text
}

/// The whole letter as JSON.
pub fn object(letter: &Letter, reveal: bool) -> Value {
    let mut object = json!(letter.head);
    let headers = letter.headers();
    let (key, value) = (letter.key.as_deref(), letter.value.as_deref());
    let view = RecordView::new(key, value, &headers, Some(&letter.head.message), reveal);
    if let Some(members) = object.as_object_mut() {
        members.extend(view.members());
    }
    object
}

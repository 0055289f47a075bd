//! A `traceparent` of W3C Trace Context, as bytes and as a context. No I/O.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use crate::record::Header;

/// The header with a context, in Kafka and in CloudEvents' binary mode.
pub const HEADER: &str = "traceparent";
const CLOUD_EVENT_HEADER: &[u8] = b"ce_traceparent";

/// Length of version 00: `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const LENGTH: usize = 55;

/// Returns the contexts in a record's headers. Bytes that are no `traceparent` are passed over.
pub(super) fn of_headers(headers: &[Header]) -> impl Iterator<Item = SpanContext> + '_ {
    let named =
        headers.iter().filter(|header| header.name == HEADER.as_bytes() || header.name == CLOUD_EVENT_HEADER);
    named.filter_map(|header| parse(header.value.as_deref()?))
}

/// Parses a `traceparent`. A later version may have more after the flags.
pub(super) fn parse(bytes: &[u8]) -> Option<SpanContext> {
    let text = std::str::from_utf8(bytes).ok()?;
    let version = hex(text.get(..2)?)?;
    let is_long = text.len() > LENGTH;
    if version == 0xff || (version == 0 && is_long) || (is_long && text.get(LENGTH..=LENGTH) != Some("-")) {
        return None;
    }
    let mut parts = text.get(2..LENGTH)?.split('-');
    let (Some(""), Some(trace_id), Some(span_id), Some(flags), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    if (trace_id.len(), span_id.len(), flags.len()) != (32, 16, 2) {
        return None;
    }
    let trace_id = TraceId::from(hex(trace_id)?);
    let span_id = SpanId::from(u64::try_from(hex(span_id)?).ok()?);
    let flags = TraceFlags::new(u8::try_from(hex(flags)?).ok()?) & TraceFlags::SAMPLED;
    let context = SpanContext::new(trace_id, span_id, flags, true, TraceState::default());
    context.is_valid().then_some(context)
}

/// Returns a context as the value of a `traceparent`.
pub(super) fn text(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags())
}

/// Parses lower-case hexadecimal digits, which the specification requires.
fn hex(digits: &str) -> Option<u128> {
    let is_lower = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    is_lower.then(|| u128::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written_unchanged() {
        for text_given in [GOOD, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"] {
            let context = parse(text_given.as_bytes()).unwrap();
            assert!(context.is_remote());
            assert_eq!(text(&context), text_given);
        }
        assert!(parse(GOOD.as_bytes()).unwrap().is_sampled());
    }

    #[test]
    fn a_later_version_may_have_more_and_unknown_flags() {
        for later in [GOOD.replacen("00", "cc", 1), GOOD.replacen("00", "01", 1) + "-more"] {
            assert_eq!(text(&parse(later.as_bytes()).unwrap()), GOOD, "{later}");
        }
        let flags = GOOD.replace("-01", "-ff");
        assert_eq!(text(&parse(flags.as_bytes()).unwrap()), GOOD);
    }

    #[test]
    fn bytes_that_are_no_traceparent_give_none() {
        for bad in [
            String::new(),
            "00".into(),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            GOOD.replacen("00", "0", 1),
            GOOD.to_owned() + "-more",
            GOOD.replacen("00", "01", 1) + "more",
            GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            GOOD.replace('-', "_"),
            GOOD.replace("b7ad6b7169203331", "b7ad6b71-9203331"),
            GOOD.replace("b7ad6b7169203331", "+7ad6b7169203331"),
            GOOD.replace("0af7651916cd43dd", "ü0af7651916cd4"),
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(parse(b"\xff\xfe"), None);
    }

    #[test]
    fn a_record_has_the_contexts_of_both_headers() {
        let other = GOOD.replace("b7ad", "c7ad");
        let headers = [
            Header::new("traceparent", "nonsense"),
            Header::new("ce_traceparent", other.as_str()),
            Header::new("Traceparent", GOOD),
            Header { name: b"traceparent".to_vec(), value: None },
            Header::new("traceparent", GOOD),
        ];
        let found: Vec<String> = of_headers(&headers).map(|context| text(&context)).collect();
        assert_eq!(found, [other.as_str(), GOOD]);
    }
}

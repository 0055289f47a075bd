//! A span that ends when it is told to, or nothing where traces are off.

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::trace::{SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};

use super::{Active, context};

/// A span; nothing where traces are off. Clones are the same span.
#[derive(Clone, Debug, Default)]
pub struct Span(Option<Context>);

impl Span {
    /// Starts a span under `parent`, or at the root of a trace.
    pub(super) fn begin(
        active: &Active,
        parent: &Span,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        attributes: Vec<KeyValue>,
    ) -> Span {
        let parent = parent.0.clone().unwrap_or_default();
        let builder = active.tracer.span_builder(name).with_kind(kind).with_attributes(attributes);
        let span = active.tracer.build_with_context(builder, &parent);
        Span(Some(Context::new().with_span(span)))
    }

    /// Whether there is a span, sampled or not.
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the span if it is sampled.
    pub(super) fn recording(&self) -> Option<opentelemetry::trace::SpanRef<'_>> {
        self.0.as_ref().map(|context| context.span()).filter(|span| span.is_recording())
    }

    /// Returns the trace's id for the log; `None` if no span is sent.
    pub fn trace_id(&self) -> Option<String> {
        self.recording().map(|span| span.span_context().trace_id().to_string())
    }

    /// Returns the value of a `traceparent` for records that the span's work creates.
    pub fn traceparent(&self) -> Option<String> {
        self.0.as_ref().map(|context| context::text(context.span().span_context()))
    }

    /// Sets a count.
    pub fn count(&self, name: &'static str, count: u64) {
        if let Some(span) = self.recording() {
            span.set_attribute(KeyValue::new(name, i64::try_from(count).unwrap_or(i64::MAX)));
        }
    }

    /// Adds an event, whose attributes are made only if the span is sent.
    pub(super) fn event(&self, name: &'static str, attributes: impl FnOnce() -> Vec<KeyValue>) {
        if let Some(span) = self.recording() {
            span.add_event(name, attributes());
        }
    }

    /// Marks the span as failed. `error_type` is one of few words, without data of a record.
    pub fn failed(&self, error_type: &'static str) {
        if let Some(span) = self.recording() {
            span.set_attribute(KeyValue::new("error.type", error_type));
            span.set_status(Status::error(error_type));
        }
    }

    /// Ends the span.
    pub fn end(&self) {
        if let Some(span) = self.recording() {
            span.end();
        }
    }
}

/// Milliseconds as the value of an attribute.
pub(super) fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

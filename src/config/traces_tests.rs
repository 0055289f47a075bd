//! The settings of traces.

use super::tests::{line, vars, with};
use super::*;

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

fn traces(more: &[(&str, &str)]) -> Option<TraceSettings> {
    with(&[&[ENDPOINT], more].concat()).unwrap().traces
}

#[test]
fn traces_are_off_unless_an_endpoint_is_set_and_nothing_turns_them_off() {
    assert_eq!(with(&[]).unwrap().traces, None);
    assert_eq!(with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).unwrap().traces, None);
    assert_eq!(with(&[("OTEL_SERVICE_NAME", "s"), ("OTEL_TRACES_SAMPLER", "x")]).unwrap().traces, None);
    assert_eq!(traces(&[("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_SAMPLER", "x")]), None);
    assert_eq!(traces(&[("OTEL_TRACES_EXPORTER", "none")]), None);
    let on = traces(&[("OTEL_SDK_DISABLED", "false"), ("OTEL_TRACES_EXPORTER", "otlp")]).unwrap();
    assert_eq!((on.url.as_str(), on.server.as_str()), ("http://collector:4318/v1/traces", "collector:4318"));
    assert_eq!((on.timeout, on.max_links), (Duration::from_secs(10), 128));
    assert_eq!((on.certificate, on.client), (None, None));
}

#[test]
fn a_variable_for_traces_wins_over_the_one_for_all_signals() {
    let on = traces(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://other/of/traces"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2000"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "7"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
    ]);
    let on = on.unwrap();
    assert_eq!((on.url.as_str(), on.server.as_str()), ("https://other/of/traces", "other:443"));
    assert_eq!((on.timeout, on.max_links), (Duration::from_secs(2), 7));
    assert_eq!(on.certificate, Some("/ca.pem".into()));
}

#[test]
fn a_variable_of_traces_that_cannot_be_used_is_named_with_what_to_do() {
    for (name, value, said) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", r#"is "grpc": give http/protobuf"#),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", r#"is "gzip": give none"#),
        ("OTEL_TRACES_EXPORTER", "zipkin", r#"is "zipkin": give otlp or none"#),
        ("OTEL_TRACES_SAMPLER", "some", r#"is "some": give always_on or"#),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5", r#"is "1.5": give a number from 0 to 1"#),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "-1", r#"is "-1": give a whole number"#),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "10s", r#"is "10s": give a whole number"#),
        ("OTEL_BSP_SCHEDULE_DELAY", "5s", r#"is "5s": give a whole number"#),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key", "stands alone: give both a certificate and its key"),
    ] {
        let error = with(&[ENDPOINT, (name, value)]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name} {said}")), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn an_endpoint_with_a_password_or_without_a_scheme_is_refused_and_not_shown() {
    for bad in ["collector:4318", "grpc://collector", "http://", "http://u:hunter2@collector:4318", "no url"]
    {
        let error = line("OTEL_EXPORTER_OTLP_ENDPOINT", bad);
        assert!(error.contains("is no URL of a collector: give a URL without a password"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn variables_of_traces_are_known() {
    let names = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME", "OTEL_ANYTHING"];
    assert_eq!(misspelt(vars(&names.map(|name| (name, "x")))), []);
}

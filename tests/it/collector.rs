//! Traces, as the OpenTelemetry Collector itself takes them and writes them to a file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use serde_json::Value;

use crate::support::kafka::Send;
use crate::support::left_out::real_kafka;
use crate::support::processes::{Process, Signal, command, folder, free_port};
use crate::support::scene::Scene;
use crate::support::tools;
use crate::support::wait::eventually;

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

/// The spans in a file of the Collector: an OTLP request a line, as JSON.
fn spans(text: &str) -> Vec<Value> {
    let each = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let requests = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let resources = requests.flat_map(|request| each(&request, "resourceSpans"));
    let scopes = resources.flat_map(|resource| each(&resource, "scopeSpans"));
    scopes.flat_map(|scope| each(&scope, "spans")).collect()
}

fn attribute(span: &Value, name: &str) -> Value {
    let found = span["attributes"].as_array().unwrap().iter().find(|attribute| attribute["key"] == name);
    found
        .map(|attribute| attribute["value"].as_object().unwrap().values().next().unwrap().clone())
        .unwrap_or_default()
}

/// `make traces`
#[test]
#[ignore = "needs the Collector, which `make traces` builds with Go in some minutes"]
fn the_real_collector_takes_the_spans_of_a_batch_an_expiry_and_a_round_of_publishing() {
    let collector = tools::folder().join("bin/collector");
    assert!(collector.is_file(), "{} is not there: `make traces` builds it", collector.display());
    let (folder, port) = (folder("collector"), free_port());
    let (config, written) = (folder.join("config.yaml"), folder.join("spans.json"));
    let text = format!(
        "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}\n\
         exporters: {{file: {{path: '{}', flush_interval: 100ms}}}}\n\
         service:\n  telemetry: {{metrics: {{level: none}}}}\n  \
         pipelines: {{traces: {{receivers: [otlp], exporters: [file]}}}}\n",
        written.display()
    );
    std::fs::write(&config, text).unwrap();
    let _collector = Process::spawn(command(&collector).arg("--config").arg(&config), Signal::Term);

    let scene = Scene::new(real_kafka!(), 1);
    let producer = |number: u32| format!("00-{number:032x}-{number:016x}-01");
    let ready = |number: u32| {
        let value = format!(
            r#"{{"caller_id":"+15550100","greeting_call_id":"g-{number}","cloned_voice_id":"v","ready_at":0,"ttl_seconds":1}}"#
        );
        Send::to(&scene.topic("clone.ready")).value(value).header("traceparent", producer(number))
    };
    scene.kafka.send_all((1..=200).map(ready));
    let endpoint = format!("http://127.0.0.1:{port}");
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("EXPIRY_INTERVAL", "1s"),
        ("BATCH_MAX_WAIT", "1s"),
    ];
    let _daemon = scene.daemon(&settings);

    let wait_for = |what: &str, is_it: &dyn Fn(&Value) -> bool| {
        eventually(MINUTES, what, || {
            std::thread::sleep(Duration::from_millis(200));
            let all = spans(&std::fs::read_to_string(&written).unwrap_or_default());
            all.iter().find(|span| is_it(span)).cloned().ok_or(all.len())
        })
    };
    let name = format!("process {}", scene.topic("clone.ready"));
    let batch = wait_for(&name, &|span| span["name"] == name.as_str());
    assert_eq!(batch["kind"], 5, "a consumer: {batch:#}");
    assert_eq!(attribute(&batch, "messaging.batch.message_count"), "200");
    assert_eq!(batch["links"].as_array().unwrap().len(), 128);
    assert_eq!(batch["links"][0]["traceId"], format!("{:032x}", 1));
    assert_eq!(attribute(&batch, "voiceclone.links.left_out"), "72");
    let write = wait_for("the transaction", &|span| span["parentSpanId"] == batch["spanId"]);
    assert_eq!((&write["name"], &write["kind"]), (&"write".into(), &3.into()), "a client: {write:#}");
    let expiry = wait_for("the expiry", &|span| {
        span["name"] == "expire" && attribute(span, "voiceclone.rows.expired") == "1"
    });
    let name = format!("send {}", scene.topic("clone.expired"));
    let sent = wait_for(&name, &|span| span["name"] == name.as_str());
    assert_eq!(sent["links"][0]["spanId"], expiry["spanId"], "{sent:#}");

    let mut shown = batch.clone();
    shown["links"].as_array_mut().unwrap().truncate(1);
    println!("{shown:#}\n{write:#}\n{expiry:#}\n{sent:#}");
}

//! A collector of traces: takes OTLP over HTTP, and keeps the spans.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::ssl::SslAcceptor;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;

use super::wait::eventually;

/// Attributes, their values as texts.
pub type Attributes = BTreeMap<String, String>;

/// A span as it arrived.
#[derive(Clone, Debug)]
pub struct Span {
    pub name: String,
    /// `INTERNAL`, `CLIENT`, `PRODUCER` or `CONSUMER`.
    pub kind: String,
    /// In hexadecimal digits, as all ids.
    pub trace: String,
    pub id: String,
    /// Empty for the root of a trace.
    pub parent: String,
    pub attributes: Attributes,
    /// `trace-span` of each link, with its attributes, in their order.
    pub links: Vec<(String, Attributes)>,
    pub events: Vec<(String, Attributes)>,
    pub failed: bool,
    /// The attributes of the service that sent it.
    pub resource: Attributes,
}

impl Span {
    /// An attribute; empty if there is none.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// The `traceparent` of records that its work creates.
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.id)
    }
}

#[derive(Default)]
struct Seen {
    spans: Mutex<Vec<Span>>,
    /// The heads of the requests.
    requests: Mutex<Vec<String>>,
    connections: AtomicU64,
}

/// A server on a port of its own.
pub struct Collector {
    seen: Arc<Seen>,
    port: u16,
}

/// How a collector answers.
#[derive(Clone)]
pub enum Answers {
    /// 200.
    Takes,
    /// 200, over TLS.
    TakesOverTls(SslAcceptor),
    /// 503.
    Refuses,
    /// It accepts connections and says nothing.
    Hangs,
}

impl Collector {
    /// Starts a collector.
    pub fn start(answers: Answers) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::<Seen>::default();
        let all = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                all.connections.fetch_add(1, Ordering::SeqCst);
                let (seen, answers) = (Arc::clone(&all), answers.clone());
                std::thread::spawn(move || seen.serve(stream, &answers));
            }
        });
        Collector { seen, port }
    }

    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The spans up to now.
    pub fn spans(&self) -> Vec<Span> {
        self.seen.spans.lock().unwrap().clone()
    }

    /// The heads of the requests up to now.
    pub fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// The number of connections up to now.
    pub fn connections(&self) -> u64 {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Waits for a span that `is` the wanted one, and returns the first.
    pub fn wait_for(&self, deadline: Duration, what: &str, is: impl Fn(&Span) -> bool) -> Span {
        eventually(deadline, what, || {
            let spans = self.spans();
            spans.iter().find(|span| is(span)).cloned().ok_or(spans)
        })
    }

    /// The spans below another one, in the order in which they ended.
    pub fn below(&self, parent: &Span) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.parent == parent.id).collect()
    }
}

impl Seen {
    fn serve(&self, stream: TcpStream, answers: &Answers) {
        match answers {
            Answers::Takes => self.answer(stream, "200 OK"),
            Answers::Refuses => self.answer(stream, "503 Service Unavailable"),
            // a client that does not trust the certificate ends the handshake
            Answers::TakesOverTls(acceptor) => {
                if let Ok(stream) = acceptor.accept(stream) {
                    self.answer(stream, "200 OK");
                }
            }
            Answers::Hangs => loop {
                std::thread::park();
            },
        }
    }

    fn answer(&self, stream: impl Read + Write, status: &str) {
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                match stream.read_line(&mut head) {
                    Ok(1..) => {}
                    _ => return,
                }
            }
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
            });
            let mut body = vec![0; length.unwrap_or(0)];
            stream.read_exact(&mut body).unwrap();
            self.requests.lock().unwrap().push(head);
            let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
            if status.starts_with("200") {
                self.spans.lock().unwrap().extend(spans(request));
            }
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut all = Vec::new();
    for of_resource in request.resource_spans {
        let resource = attributes(of_resource.resource.unwrap().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            let link = |link: opentelemetry_proto::tonic::trace::v1::span::Link| {
                (format!("{}-{}", hex(&link.trace_id), hex(&link.span_id)), attributes(link.attributes))
            };
            all.push(Span {
                kind: span.kind().as_str_name().trim_start_matches("SPAN_KIND_").to_owned(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                attributes: attributes(span.attributes),
                links: span.links.into_iter().map(link).collect(),
                events: span
                    .events
                    .into_iter()
                    .map(|event| (event.name, attributes(event.attributes)))
                    .collect(),
                failed: span.status.is_some_and(|status| status.code() == StatusCode::Error),
                name: span.name,
                resource: resource.clone(),
            });
        }
    }
    all
}

fn attributes(pairs: Vec<KeyValue>) -> Attributes {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::BoolValue(value) => value.to_string(),
        Value::IntValue(value) => value.to_string(),
        Value::DoubleValue(value) => value.to_string(),
        other => format!("{other:?}"),
    };
    let value =
        |pair: KeyValue| (pair.key, pair.value.and_then(|value| value.value).map_or_else(String::new, text));
    pairs.into_iter().map(value).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

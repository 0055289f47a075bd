//! `OTEL_*`, the variables of the OpenTelemetry specification: whether traces are sent, and where to. The SDK reads most
//! of them itself and passes over an invalid one in silence, so they are checked here.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::SettingsReader;

/// How traces are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceSettings {
    /// The collector's URL as it was given, without a password.
    pub endpoint: String,
    /// The URL that spans are sent to.
    pub url: String,
    /// Host and port of the collector.
    pub server: String,
    /// Timeout of one request.
    pub timeout: Duration,
    /// Maximum number of links of a span.
    pub max_links: usize,
    /// A PEM file with the authorities that are trusted in place of the system's.
    pub certificate: Option<PathBuf>,
    /// PEM files with the daemon's own certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Variables that the SDK reads, each a whole number.
const NUMBERS: [&str; 6] = [
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
];

const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// The specification's default of `OTEL_EXPORTER_OTLP_TIMEOUT`, in milliseconds.
const TIMEOUT_MS: u32 = 10_000;

/// The specification's default of `OTEL_SPAN_LINK_COUNT_LIMIT`.
const MAX_LINKS: u32 = 128;

impl SettingsReader {
    /// `None` if no endpoint is set or traces are turned off. Then no other variable is checked.
    pub(super) fn traces(&mut self) -> Option<TraceSettings> {
        let is =
            |value: Option<String>, word: &str| value.is_some_and(|text| text.eq_ignore_ascii_case(word));
        let (name, endpoint) = self.of_traces("ENDPOINT")?;
        if is(self.given("OTEL_SDK_DISABLED", &None), "true")
            || is(self.given("OTEL_TRACES_EXPORTER", &None), "none")
        {
            return None;
        }
        // the specification has the path added to the variable for all signals only
        let is_exact = name.contains("TRACES");
        let server = server(&endpoint);
        if server.is_none() {
            let remedy = "give a URL without a password, like http://collector:4318, and credentials in \
                          OTEL_EXPORTER_OTLP_HEADERS";
            self.error(name, "is no URL of a collector", remedy);
        }
        self.among("OTEL_TRACES_EXPORTER", &["otlp", "none"]);
        for (kind, all) in [("PROTOCOL", ["http/protobuf"]), ("COMPRESSION", ["none"])] {
            if let Some((name, _)) = self.of_traces(kind) {
                self.among(&name, &all);
            }
        }
        self.among("OTEL_TRACES_SAMPLER", &SAMPLERS);
        self.parsed("OTEL_TRACES_SAMPLER_ARG", &None, "give a number from 0 to 1", |text| {
            text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
        });
        for name in NUMBERS {
            self.whole(name, 0);
        }
        let timeout = self.of_traces("TIMEOUT");
        let timeout = timeout.map_or(TIMEOUT_MS, |(name, _)| self.whole(&name, TIMEOUT_MS));
        let max_links = self.whole("OTEL_SPAN_LINK_COUNT_LIMIT", MAX_LINKS);
        let certificate = self.of_traces("CERTIFICATE").map(|(_, path)| path.into());
        let client = match (self.of_traces("CLIENT_CERTIFICATE"), self.of_traces("CLIENT_KEY")) {
            (Some((_, certificate)), Some((_, key))) => Some((certificate.into(), key.into())),
            (None, None) => None,
            (Some((name, _)), None) | (None, Some((name, _))) => {
                let remedy = "give both a certificate and its key, in OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and \
                              OTEL_EXPORTER_OTLP_CLIENT_KEY";
                self.error(&name, "stands alone", remedy);
                None
            }
        };
        Some(TraceSettings {
            url: if is_exact {
                endpoint.clone()
            } else {
                format!("{}/v1/traces", endpoint.trim_end_matches('/'))
            },
            endpoint,
            server: server?,
            timeout: Duration::from_millis(timeout.into()),
            max_links: usize::try_from(max_links).unwrap_or(usize::MAX),
            certificate,
            client,
        })
    }

    /// The name and value of a variable of the exporter. The one for traces wins over the one for all signals.
    fn of_traces(&self, kind: &str) -> Option<(String, String)> {
        ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"].into_iter().find_map(|prefix| {
            let name = format!("{prefix}{kind}");
            self.given(&name, &None).map(|value| (name, value))
        })
    }

    fn among(&mut self, name: &str, all: &[&str]) {
        let remedy = format!("give {}", all.join(" or "));
        self.parsed(name, &None, &remedy, |text| all.contains(&text).then_some(()));
    }

    fn whole(&mut self, name: &str, default: u32) -> u32 {
        self.parsed(name, &None, "give a whole number", |text| text.parse().ok()).unwrap_or(default)
    }
}

/// Host and port of a URL that spans can be sent to. A URL with a user or password has none: the log shows it.
fn server(url: &str) -> Option<String> {
    let url: ureq::http::Uri = url.parse().ok()?;
    let port = match url.scheme_str()? {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = url.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let host = Some(authority.host()).filter(|host| !host.is_empty())?;
    Some(format!("{host}:{}", authority.port_u16().unwrap_or(port)))
}

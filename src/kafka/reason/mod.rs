//! The reason why a broker cannot be reached or refuses, in one sentence, and the remedy. librdkafka's error and log
//! callbacks contain the cause; the results of its calls do not.

use std::fmt;

use rdkafka::error::RDKafkaErrorCode as Code;

/// The causes, the most specific first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    WrongLogin,
    MechanismNotOffered,
    LoginExpected,
    LoginNotExpected,
    MissingRight,
    ExpiredCertificate,
    WrongHostName,
    UntrustedCertificate,
    ClientCertificateExpected,
    TlsExpected,
    PlainTextExpected,
    NameNotFound,
    Refused,
    TimedOut,
    CoordinatorAway,
    Other,
}

impl Kind {
    /// The label of `voiceclone_kafka_errors_total{kind}`.
    pub fn metric(self) -> &'static str {
        match self {
            Kind::WrongLogin | Kind::MechanismNotOffered | Kind::LoginExpected | Kind::LoginNotExpected => {
                "authentication"
            }
            Kind::MissingRight => "authorization",
            Kind::ExpiredCertificate
            | Kind::WrongHostName
            | Kind::UntrustedCertificate
            | Kind::ClientCertificateExpected
            | Kind::TlsExpected
            | Kind::PlainTextExpected => "tls",
            Kind::NameNotFound | Kind::Refused | Kind::TimedOut => "transport",
            Kind::CoordinatorAway | Kind::Other => "other",
        }
    }

    /// Whether a retry would fail the same way.
    pub fn is_final(self) -> bool {
        self < Kind::NameNotFound
    }
}

/// A cause with a sentence and a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureReason {
    /// The cause.
    pub kind: Kind,
    /// The problem.
    pub sentence: String,
    /// The remedy.
    pub remedy: String,
}

impl FailureReason {
    /// Returns the sentence and the remedy for a cause; `words` are the error text without the server.
    pub fn new(kind: Kind, words: &str) -> FailureReason {
        let (sentence, remedy) = match kind {
            Kind::WrongLogin => (
                "the broker refuses the user or the password (it does not say which)".to_owned(),
                "correct KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, or create the user with kafka-configs.sh",
            ),
            Kind::MechanismNotOffered => (
                match words.split_once("supported mechanisms: ").map(|(_, offered)| without_state(offered)) {
                    Some(offered) if !offered.is_empty() => {
                        format!("the broker does not offer this SASL mechanism; it offers {offered}")
                    }
                    _ => "the broker does not offer this SASL mechanism".to_owned(),
                },
                "set KAFKA_SASL_MECHANISM to one that the broker offers",
            ),
            Kind::LoginExpected => (
                "the broker closed the connection at the first question, as one does that expects a login"
                    .to_owned(),
                "set KAFKA_SECURITY_PROTOCOL to SASL_PLAINTEXT or SASL_SSL, with KAFKA_SASL_MECHANISM, \
                 KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
            ),
            Kind::LoginNotExpected => (
                "the broker takes no login on this port".to_owned(),
                "set KAFKA_SECURITY_PROTOCOL to PLAINTEXT or SSL, or name the port of a SASL listener in \
                 KAFKA_BOOTSTRAP_SERVERS",
            ),
            Kind::MissingRight => (
                "the broker does not allow this client to do that".to_owned(),
                "grant the right with kafka-acls.sh",
            ),
            Kind::ExpiredCertificate => (
                "the broker's certificate has expired".to_owned(),
                "renew the broker's certificate, or set this machine's clock right",
            ),
            Kind::WrongHostName => (
                "the broker's certificate is for another host name".to_owned(),
                "name the broker in KAFKA_BOOTSTRAP_SERVERS and in advertised.listeners as its certificate does",
            ),
            Kind::UntrustedCertificate => (
                "the broker's certificate is not signed by an authority that is trusted here".to_owned(),
                "set KAFKA_SSL_CA_LOCATION to the file of the authority that signed it",
            ),
            Kind::ClientCertificateExpected => (
                "the broker expects a certificate of the client".to_owned(),
                "set KAFKA_SSL_CERTIFICATE_LOCATION and KAFKA_SSL_KEY_LOCATION",
            ),
            Kind::TlsExpected => (
                "the broker expects TLS on this port".to_owned(),
                "set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL, or name the port of a listener without TLS in \
                 KAFKA_BOOTSTRAP_SERVERS",
            ),
            Kind::PlainTextExpected => (
                "the broker speaks no TLS on this port".to_owned(),
                "set KAFKA_SECURITY_PROTOCOL to PLAINTEXT or SASL_PLAINTEXT, or name the port of a listener with TLS \
                 in KAFKA_BOOTSTRAP_SERVERS",
            ),
            Kind::NameNotFound => (
                "the host name is not found".to_owned(),
                "correct the name in KAFKA_BOOTSTRAP_SERVERS (or in the broker's advertised.listeners), or the name \
                 server of this machine",
            ),
            Kind::Refused => (
                "the connection is refused: nothing listens there".to_owned(),
                "start the broker, or correct host and port in KAFKA_BOOTSTRAP_SERVERS (or in the broker's \
                 advertised.listeners)",
            ),
            Kind::TimedOut => (
                "no answer came in time".to_owned(),
                "look whether the broker runs, whether a firewall lies between, and whether host and port in \
                 KAFKA_BOOTSTRAP_SERVERS are right",
            ),
            Kind::CoordinatorAway => (
                "the group's coordinator is not there yet; no right is missing".to_owned(),
                "try again in a minute; if it stays away, compare offsets.topic.replication.factor with the \
                 number of brokers",
            ),
            Kind::Other => (
                if words.is_empty() {
                    "no broker answers".to_owned()
                } else {
                    without_state(words).to_owned()
                },
                "start the broker, or correct KAFKA_BOOTSTRAP_SERVERS and the other KAFKA_* settings",
            ),
        };
        FailureReason { kind, sentence, remedy: remedy.to_owned() }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.sentence, self.remedy)
    }
}

/// Returns the reason for an error of librdkafka, from its code and the whole text of its error or log callback.
pub fn reason(code: Code, text: &str) -> FailureReason {
    FailureReason::new(kind(code, text), server(text).1)
}

fn kind(code: Code, text: &str) -> Kind {
    let has = |part: &str| text.contains(part);
    match code {
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => return Kind::MissingRight,
        Code::CoordinatorNotAvailable
        | Code::CoordinatorLoadInProgress
        | Code::NotCoordinator
        | Code::WaitingForCoordinator => return Kind::CoordinatorAway,
        Code::SaslAuthenticationFailed => return Kind::WrongLogin,
        Code::UnsupportedSASLMechanism => return Kind::MechanismNotOffered,
        Code::IllegalSASLState => return Kind::LoginNotExpected,
        _ => {}
    }
    if has("mechanism handshake failed") {
        // A listener without SASL answers this way, and lists no mechanisms.
        return if has("current SASL state") { Kind::LoginNotExpected } else { Kind::MechanismNotOffered };
    }
    if has("SASL authentication error") || has("Authentication failed") || has("authentication failed") {
        return Kind::WrongLogin;
    }
    if has("might require SASL authentication") || is_cut_off(text, "UP") && !has("sasl_") {
        return Kind::LoginExpected;
    }
    certificate_or_protocol(text).unwrap_or_else(|| match code {
        Code::Resolve => Kind::NameNotFound,
        _ if has("Failed to resolve") => Kind::NameNotFound,
        _ if has("Connection refused") => Kind::Refused,
        Code::OperationTimedOut | Code::RequestTimedOut | Code::MessageTimedOut => Kind::TimedOut,
        _ if has("timed out") || has("Timed out") => Kind::TimedOut,
        _ if has("unreachable") || has("No route to host") => Kind::TimedOut,
        _ => Kind::Other,
    })
}

fn certificate_or_protocol(text: &str) -> Option<Kind> {
    let has = |part: &str| text.contains(part);
    if has("certificate has expired") {
        return Some(Kind::ExpiredCertificate);
    }
    if has("hostname mismatch") || has("IP address mismatch") {
        return Some(Kind::WrongHostName);
    }
    if has("alert certificate required")
        || has("client SSL authentication might be required")
        || has("alert bad certificate")
    {
        return Some(Kind::ClientCertificateExpected);
    }
    if has("certificate verify failed")
        || has("could not be verified")
        || has("Failed to verify broker certificate")
    {
        return Some(Kind::UntrustedCertificate);
    }
    if has("wrong version number")
        || has("connecting to a PLAINTEXT broker listener")
        || has("packet length too long")
    {
        return Some(Kind::PlainTextExpected);
    }
    let is_plain = !has("ssl://");
    if has("connecting to a SSL listener")
        || is_tls_alert(text)
        || is_cut_off(text, "APIVERSION_QUERY") && is_plain
    {
        return Some(Kind::TlsExpected);
    }
    None
}

/// Whether the broker closed the connection in this state within 2 s of connecting. A connection that is up for longer
/// may be closed for any reason.
fn is_cut_off(text: &str, state: &str) -> bool {
    let Some((words, after)) = text.rsplit_once(" (after ") else { return false };
    let Some((millis, rest)) = after.split_once("ms in state ") else { return false };
    let is_soon = millis.parse::<u32>().is_ok_and(|millis| millis < 2_000);
    is_soon && words.contains("Disconnected") && rest.starts_with(state)
}

/// Whether a TLS alert was read as the size of an answer: bytes 0x15 0x03 and the version, so at least 352518912.
fn is_tls_alert(text: &str) -> bool {
    let size = text.split("Invalid response size ").nth(1).and_then(|rest| rest.split(' ').next());
    size.and_then(|size| size.parse::<u32>().ok()).is_some_and(|size| size >> 16 == 0x1503)
}

/// Returns the text without librdkafka's `(after 5ms in state CONNECT)`.
fn without_state(text: &str) -> &str {
    text.split(" (after ").next().unwrap_or(text).trim()
}

/// Splits off the server at the start of a text from librdkafka: `ssl://host:9093/bootstrap: Connect to ...`.
pub fn server(text: &str) -> (Option<&str>, &str) {
    // A log line starts with its thread.
    let text =
        text.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")).map_or(text, |(_, rest)| rest);
    let Some((head, rest)) = text.split_once(": ") else { return (None, text) };
    let Some((name, _)) = head.rsplit_once('/') else { return (None, text) };
    let name = name.rsplit_once("://").map_or(name, |(_, name)| name);
    if name.contains(':') && !name.contains(' ') { (Some(name), rest) } else { (None, text) }
}

#[cfg(test)]
mod tests;

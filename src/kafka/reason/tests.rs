//! Tests against texts that librdkafka has produced.

use super::*;

#[test]
fn the_texts_of_librdkafka_have_their_kinds() {
    let cases = [
        (
            Code::Resolve,
            "nowhere.invalid:9092/bootstrap: Failed to resolve 'nowhere.invalid:9092': Name or service not known \
             (after 3ms in state CONNECT)",
            Kind::NameNotFound,
        ),
        (
            Code::BrokerTransportFailure,
            "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state \
             CONNECT)",
            Kind::Refused,
        ),
        (
            Code::BrokerTransportFailure,
            "10.255.255.1:9092/bootstrap: Connection setup timed out in state CONNECT (after 4013ms in state \
             CONNECT)",
            Kind::TimedOut,
        ),
        (
            Code::BrokerTransportFailure,
            "localhost:9093/bootstrap: Disconnected: requesting ApiVersion: might be caused by incorrect \
             security.protocol configuration (connecting to a SSL listener?) or broker version is < 0.10",
            Kind::TlsExpected,
        ),
        (
            Code::BrokerTransportFailure,
            "sasl_plaintext://localhost:9093/bootstrap: Disconnected: connection closed by peer: receive 0 after \
             POLLIN (after 3ms in state APIVERSION_QUERY)",
            Kind::TlsExpected,
        ),
        (
            Code::BrokerTransportFailure,
            "localhost:9094/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 12ms \
             in state UP)",
            Kind::LoginExpected,
        ),
        (
            Code::BrokerTransportFailure,
            "localhost:9092/1: Disconnected: connection closed by peer: receive 0 after POLLIN (after 600123ms in \
             state UP)",
            Kind::Other,
        ),
        (
            Code::BrokerTransportFailure,
            "localhost:9093/bootstrap: Receive failed: Invalid response size 352518912 (0..100000000): increase \
             receive.message.max.bytes",
            Kind::TlsExpected,
        ),
        (
            Code::SSL,
            "ssl://localhost:9092/bootstrap: SSL handshake failed: error:0A00010B:SSL routines::wrong version \
             number",
            Kind::PlainTextExpected,
        ),
        (
            Code::BrokerTransportFailure,
            "ssl://localhost:9092/bootstrap: SSL handshake failed: Disconnected: connection closed by peer: \
             connecting to a PLAINTEXT broker listener? (after 6ms in state SSL_HANDSHAKE)",
            Kind::PlainTextExpected,
        ),
        (
            Code::SSL,
            "ssl://localhost:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify \
             failed: broker certificate could not be verified, verify that ssl.ca.location is correctly configured",
            Kind::UntrustedCertificate,
        ),
        (Code::SSL, "certificate verify failed: certificate has expired", Kind::ExpiredCertificate),
        (Code::SSL, "certificate verify failed: hostname mismatch", Kind::WrongHostName),
        (
            Code::Authentication,
            "sasl_plaintext://localhost:9094/bootstrap: SASL authentication error: Authentication failed during \
             authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512 (after 7ms in state \
             AUTH_REQ)",
            Kind::WrongLogin,
        ),
        (
            Code::Authentication,
            "sasl_plaintext://localhost:9092/bootstrap: SASL PLAIN mechanism handshake failed: Broker: Request not \
             valid in current SASL state: broker's supported mechanisms:  (after 1ms in state AUTH_HANDSHAKE)",
            Kind::LoginNotExpected,
        ),
        (
            Code::BrokerTransportFailure,
            "localhost:9094/bootstrap: Disconnected: verify that security.protocol is correctly configured, broker \
             might require SASL authentication (after 301ms in state UP)",
            Kind::LoginExpected,
        ),
        (Code::TopicAuthorizationFailed, "", Kind::MissingRight),
        (Code::GroupAuthorizationFailed, "", Kind::MissingRight),
        (Code::CoordinatorNotAvailable, "", Kind::CoordinatorAway),
        (Code::WaitingForCoordinator, "", Kind::CoordinatorAway),
        (Code::Fail, "something nobody has heard of", Kind::Other),
    ];
    for (code, text, expected) in cases {
        assert_eq!(reason(code, text).kind, expected, "{text}");
    }
}

#[test]
fn a_mechanism_that_is_not_offered_is_answered_with_those_that_are() {
    let text = "sasl_plaintext://localhost:9094/bootstrap: SASL SCRAM-SHA-256 mechanism handshake failed: Broker: \
                Unsupported SASL mechanism: broker's supported mechanisms: SCRAM-SHA-512 (after 2ms in state \
                AUTH_HANDSHAKE)";
    let reason = reason(Code::Authentication, text);
    assert_eq!(reason.kind, Kind::MechanismNotOffered);
    assert_eq!(
        reason.to_string(),
        "the broker does not offer this SASL mechanism; it offers SCRAM-SHA-512: set KAFKA_SASL_MECHANISM to one \
         that the broker offers"
    );
}

#[test]
fn the_server_is_taken_from_the_text() {
    for (text, expected) in [
        (
            "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed",
            (Some("127.0.0.1:1"), "Connect to ipv4#127.0.0.1:1 failed"),
        ),
        ("ssl://kafka:9093/1: SSL handshake failed", (Some("kafka:9093"), "SSL handshake failed")),
        (
            "[thrd:kafka:9092/bootstrap]: kafka:9092/bootstrap: Disconnected",
            (Some("kafka:9092"), "Disconnected"),
        ),
        ("1/1 brokers are down", (None, "1/1 brokers are down")),
    ] {
        assert_eq!(server(text), expected);
    }
}

//! Requests that rdkafka's admin client does not have, written by hand: client quotas and access rights. Kafka's own
//! tools take seconds to start.

use std::io::{Read, Write};
use std::net::TcpStream;

/// Limits the clients with this `client.id` to fetching this many bytes per second from each broker.
///
/// # Panics
/// Where the broker refuses.
pub fn limit_fetching(servers: &str, client_id: &str, bytes_per_second: f64) {
    let mut request = Request::new(49, 0); // AlterClientQuotas
    request.count(1).count(1).text("client-id").text(client_id);
    request.count(1).text("consumer_byte_rate").bytes(&bytes_per_second.to_be_bytes());
    request.bytes(&[0, 0]); // `remove` and `validate_only` are false
    request.send(servers);
}

/// Denies everyone to read a topic; everything else stays allowed. The broker needs an authorizer.
///
/// # Panics
/// Where the broker refuses.
pub fn deny_reading(servers: &str, topic: &str) {
    const READ_DENIED: [u8; 2] = [3, 2];
    const ALL_ALLOWED: [u8; 2] = [2, 3];
    let mut request = Request::new(30, 1); // CreateAcls
    request.count(2);
    for right in [READ_DENIED, ALL_ALLOWED] {
        request.bytes(&[TOPIC]).text(topic).bytes(&[LITERAL]).text("User:*").text("*").bytes(&right);
    }
    request.send(servers);
}

/// Reverts [`deny_reading`].
///
/// # Panics
/// Where the broker refuses.
pub fn allow_reading(servers: &str, topic: &str) {
    const ANY: u8 = 1;
    let mut request = Request::new(31, 1); // DeleteAcls
    request.count(1).bytes(&[TOPIC]).text(topic).bytes(&[LITERAL]);
    request.bytes(&NULL).bytes(&NULL).bytes(&[ANY, ANY]); // any user, any host
    request.send(servers);
}

const TOPIC: u8 = 2;
const LITERAL: u8 = 3;
const NULL: [u8; 2] = [0xff, 0xff];

struct Request(Vec<u8>);

impl Request {
    fn new(number: i16, version: i16) -> Request {
        let mut request = Request(Vec::new());
        request.bytes(&number.to_be_bytes()).bytes(&version.to_be_bytes());
        request.count(1).text("tests"); // the answer bears the same number; the client's id
        request
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Request {
        self.0.extend(bytes);
        self
    }

    fn count(&mut self, count: i32) -> &mut Request {
        self.bytes(&count.to_be_bytes())
    }

    fn text(&mut self, text: &str) -> &mut Request {
        self.bytes(&i16::try_from(text.len()).unwrap().to_be_bytes()).bytes(text.as_bytes())
    }

    fn send(&self, servers: &str) {
        let mut broker = TcpStream::connect(servers.split(',').next().unwrap()).unwrap();
        broker.write_all(&i32::try_from(self.0.len()).unwrap().to_be_bytes()).unwrap();
        broker.write_all(&self.0).unwrap();
        let mut length = [0; 4];
        broker.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        broker.read_exact(&mut answer).unwrap();
        // the request's number, how long the broker holds this client back, the count of results, the first one's error
        let error = i16::from_be_bytes([answer[12], answer[13]]);
        assert_eq!(error, 0, "the broker refuses: {}", String::from_utf8_lossy(&answer));
    }
}

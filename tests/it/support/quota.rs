//! Client quotas. rdkafka's admin client has no call for them, and Kafka's own tool takes seconds to start.

use std::io::{Read, Write};
use std::net::TcpStream;

/// Kafka's number of the request `AlterClientQuotas`.
const ALTER_CLIENT_QUOTAS: i16 = 49;

/// Lets the clients with this `client.id` fetch so many bytes a second from each broker.
///
/// # Panics
/// Where the broker refuses.
pub fn limit_fetching(servers: &str, client_id: &str, bytes_per_second: f64) {
    let mut request = Vec::new();
    request.extend(ALTER_CLIENT_QUOTAS.to_be_bytes());
    request.extend(0_i16.to_be_bytes()); // the request's version
    request.extend(1_i32.to_be_bytes()); // the answer bears the same number
    text(&mut request, "tests");
    request.extend(1_i32.to_be_bytes()); // entries
    request.extend(1_i32.to_be_bytes()); // parts of the entity
    text(&mut request, "client-id");
    text(&mut request, client_id);
    request.extend(1_i32.to_be_bytes()); // quotas
    text(&mut request, "consumer_byte_rate");
    request.extend(bytes_per_second.to_be_bytes());
    request.extend([0, 0]); // `remove` and `validate_only` are false

    let mut broker = TcpStream::connect(servers.split(',').next().unwrap()).unwrap();
    broker.write_all(&i32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
    broker.write_all(&request).unwrap();
    let mut length = [0; 4];
    broker.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
    broker.read_exact(&mut answer).unwrap();
    // the number, the time for which the broker holds this client back, the count of entries, the first one's error
    let error = i16::from_be_bytes([answer[12], answer[13]]);
    assert_eq!(error, 0, "the broker refuses the quota: {}", String::from_utf8_lossy(&answer));
}

fn text(request: &mut Vec<u8>, text: &str) {
    request.extend(i16::try_from(text.len()).unwrap().to_be_bytes());
    request.extend(text.as_bytes());
}

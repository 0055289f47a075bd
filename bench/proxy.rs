//! A TCP proxy that adds a round trip: bytes are sent on half a round trip later, in either direction. Each direction
//! is a queue of (send time, bytes), so the delay does not limit the bandwidth. It uses threads because tokio's timer
//! has a resolution of a millisecond.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Starts a proxy for `target`, until the process ends, and returns its address: `host:port`.
pub fn start(target: &str, round_trip: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let target = target.to_owned();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (near.unwrap(), TcpStream::connect(&target).unwrap());
            delay(near.try_clone().unwrap(), far.try_clone().unwrap(), round_trip / 2);
            delay(far, near, round_trip / 2);
        }
    });
    address
}

fn delay(mut from: TcpStream, mut to: TcpStream, by: Duration) {
    to.set_nodelay(true).unwrap();
    let (sender, queue) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send((Instant::now() + by, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, bytes) in queue {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

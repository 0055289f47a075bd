//! A TCP proxy that adds a round trip: what it reads goes out half a round trip later, whatever the direction.
//! Each direction is a queue of (when to go out, bytes), so the delay does not limit the bandwidth. Threads rather
//! than tokio: tokio's timer knows only whole milliseconds.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Starts a proxy before `target` for the rest of this process, and gives its address: `host:port`.
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

//! A TCP proxy with the faults of networks: it delays, cuts, half-closes and stalls connections, and loses the one
//! message that matters. In front of PostgreSQL it recognises a COMMIT; it parses nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::processes::free_port;

/// The treatment of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Bytes pass.
    Pass,
    /// Bytes pass after this delay, in both directions.
    Delay(Duration),
    /// Bytes wait, in both directions, until the mode changes: the connection looks alive and is not.
    Stall,
    /// A COMMIT reaches the server, its answer is dropped, and the connection is cut: the client cannot know that the
    /// transaction was committed.
    LoseAnswerToCommit,
    /// A COMMIT is dropped and the connection is cut: the client cannot know that the transaction was rolled back.
    LoseCommit,
    /// The first connection works; later ones are accepted and never get an answer.
    AnswerOne,
}

/// `Query` with the text `COMMIT`, as PostgreSQL's protocol writes it.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// A proxy, listening until it is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

struct Shared {
    mode: Mutex<Mode>,
    /// The address of the server, for new connections.
    address: Mutex<String>,
    /// Each change cuts all open connections.
    cuts: watch::Sender<u64>,
    /// Each change ends the direction from the server to the client; the other one stays open.
    halves: watch::Sender<u64>,
    /// Each change silences all open connections.
    silences: watch::Sender<u64>,
    lost: AtomicU64,
    open: AtomicU64,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1, and connects to this address (`host:port`) for each client.
    pub fn to(address: &str) -> Proxy {
        Self::on(free_port(), address)
    }

    /// Listens on this port of 127.0.0.1.
    pub fn on(port: u16, address: &str) -> Proxy {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Pass),
            address: Mutex::new(address.to_owned()),
            cuts: watch::Sender::new(0),
            halves: watch::Sender::new(0),
            silences: watch::Sender::new(0),
            lost: AtomicU64::new(0),
            open: AtomicU64::new(0),
        });
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(listen(listener, Arc::clone(&shared)));
        Proxy { port, shared, _runtime: runtime }
    }

    /// The address of the proxy: `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Changes the treatment of bytes, including those in flight.
    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    /// Carries new connections to another server; open ones stay.
    pub fn retarget(&self, address: &str) {
        *self.shared.address.lock().unwrap() = address.to_owned();
    }

    /// Cuts all open connections, and returns their number.
    pub fn cut(&self) -> u64 {
        self.shared.cuts.send_modify(|count| *count += 1);
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Ends the server's direction of all open connections: the client sees the end of the stream, while its own bytes
    /// still reach the server.
    pub fn halve(&self) {
        self.shared.halves.send_modify(|count| *count += 1);
    }

    /// Silences all open connections without either side noticing; new connections work.
    pub fn silence(&self) {
        self.shared.silences.send_modify(|count| *count += 1);
    }

    /// The number of dropped COMMITs and answers to a COMMIT.
    pub fn lost_commits(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

async fn listen(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).unwrap();
    let mut unanswered = Vec::new();
    loop {
        let Ok((mut client, _)) = listener.accept().await else { continue };
        if mode(&shared) == Mode::AnswerOne && shared.open.load(Ordering::Relaxed) > 0 {
            unanswered.push(client);
            continue;
        }
        let (address, shared) = (shared.address.lock().unwrap().clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let (mut cuts, halves) = (shared.cuts.subscribe(), shared.halves.subscribe());
            let mut silences = shared.silences.subscribe();
            let Ok(mut server) = TcpStream::connect(address).await else { return };
            shared.open.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                _ = cuts.changed() => {}
                () = connect(&mut client, &mut server, halves, &shared) => {}
                _ = silences.changed() => drop(cuts.changed().await),
            }
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Carries bytes both ways until one side ends, or a commit is lost.
async fn connect(
    client: &mut TcpStream,
    server: &mut TcpStream,
    mut halves: watch::Receiver<u64>,
    shared: &Shared,
) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let swallow = Mutex::new(false);
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        let mut buffer = vec![0; 65_536];
        while let Some(read) = read(&mut from_client, &mut buffer, shared).await {
            if read.windows(COMMIT.len()).any(|window| window == COMMIT) {
                match mode(shared) {
                    Mode::LoseAnswerToCommit => *swallow.lock().unwrap() = true,
                    Mode::LoseCommit => {
                        shared.lost.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    _ => {}
                }
            }
            if to_server.write_all(read).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 65_536];
        loop {
            let read = tokio::select! {
                read = read(&mut from_server, &mut buffer, shared) => read,
                _ = halves.changed() => {
                    let _ = to_client.shutdown().await;
                    return std::future::pending().await;
                }
            };
            let Some(read) = read else { return };
            if *swallow.lock().unwrap() {
                shared.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if to_client.write_all(read).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// The next bytes, once they may pass; `None` at the end.
async fn read<'b>(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &'b mut [u8],
    shared: &Shared,
) -> Option<&'b [u8]> {
    let length = from.read(buffer).await.ok().filter(|length| *length > 0)?;
    if let Mode::Delay(delay) = mode(shared) {
        tokio::time::sleep(delay).await;
    }
    while mode(shared) == Mode::Stall {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Some(&buffer[..length])
}

fn mode(shared: &Shared) -> Mode {
    *shared.mode.lock().unwrap()
}

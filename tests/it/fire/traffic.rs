//! The traffic during the faults: the disordered traffic of `simulate`, exact duplicates of earlier records, events that
//! collide on few keys, clones that live for seconds, and bytes that are not an event.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use voiceclone_events::record::{Header, Outgoing};
use voiceclone_events::traffic::{Scenario, traffic};

use super::dice::Dice;
use crate::support::kafka::{Kafka, Send};
use crate::support::scene::{TOPICS, sendable};

/// Part of every text of the collisions, so that it can be searched for in logs.
pub const PAYLOAD_TEXT: &str = "PAYLOAD-TEXT";

/// Number of records kept for sending again.
const MEMORY: usize = 10_000;

/// The rate and amount of traffic.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Records a second. What an outage has held up is sent at once when it is over.
    pub per_second: u64,
    /// Records at most.
    pub most: u64,
    /// Exact duplicates of earlier records per thousand records.
    pub duplicates_per_mille: u64,
    /// Maximum number of unread records; sending pauses at it.
    pub ahead: u64,
}

/// A thread that sends until it is ended or has sent its maximum of records.
pub struct Producer {
    /// While it is locked, the thread does not send, and nothing is in flight.
    gate: Arc<Mutex<()>>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

/// The records that were sent.
#[derive(Default)]
struct Counts {
    end: AtomicBool,
    hold: AtomicBool,
    sent: AtomicU64,
    duplicates: AtomicU64,
    /// Topics, as Kafka has them, to which nothing is sent.
    without: Mutex<BTreeSet<String>>,
    /// The partitions to which all is sent, where not every one has a leader.
    only: Mutex<Vec<i32>>,
}

impl Producer {
    /// Starts to send to the topics with this prefix.
    pub fn start(servers: &str, prefix: &str, seed: u64, pace: Pace) -> Producer {
        let (gate, counts) = (Arc::default(), Arc::<Counts>::default());
        let sender = Sender {
            kafka: Kafka::at(servers),
            prefix: prefix.to_owned(),
            dice: Dice::new(seed, 77),
            seed,
            gate: Arc::clone(&gate),
            counts: Arc::clone(&counts),
        };
        let thread = Some(std::thread::spawn(move || sender.run(pace)));
        Producer { gate, counts, thread }
    }

    /// Prevents sending while the guard is held.
    pub fn gate(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.gate)
    }

    /// Pauses sending, or resumes it.
    pub fn hold(&self, hold: bool) {
        self.counts.hold.store(hold, Ordering::Relaxed);
    }

    /// Stops sending to a topic.
    pub fn leave_out(&self, topic: &str) {
        self.counts.without.lock().unwrap().insert(topic.to_owned());
    }

    /// Sends only to these partitions; to all if the list is empty.
    pub fn send_only_to(&self, partitions: &[i32]) {
        *self.counts.only.lock().unwrap() = partitions.to_vec();
    }

    /// The number of sent records.
    pub fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed)
    }

    /// The number of exact duplicates among them.
    pub fn duplicates(&self) -> u64 {
        self.counts.duplicates.load(Ordering::Relaxed)
    }

    /// Ends the thread, once the broker has everything in flight.
    pub fn end(&mut self) {
        self.counts.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the producer failed");
        }
    }
}

struct Sender {
    kafka: Kafka,
    prefix: String,
    dice: Dice,
    seed: u64,
    gate: Arc<Mutex<()>>,
    counts: Arc<Counts>,
}

impl Sender {
    fn run(mut self, pace: Pace) {
        let mut memory: Vec<Send> = Vec::new();
        let mut wave = 0;
        let mut records = self.wave(wave);
        let chunk = (pace.per_second * 100 / (1000 + pace.duplicates_per_mille)).max(1);
        let mut started = Instant::now();
        while !self.counts.end.load(Ordering::Relaxed) && self.counts.sent.load(Ordering::Relaxed) < pace.most
        {
            if self.counts.hold.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
                started += Duration::from_millis(50);
                continue;
            }
            let mut sends = Vec::new();
            for _ in 0..chunk {
                let record = loop {
                    match records.next() {
                        Some(record) => break record,
                        None => {
                            wave += 1;
                            records = self.wave(wave);
                        }
                    }
                };
                sends.push(sendable(&self.prefix, record));
                let copies = pace.duplicates_per_mille / 1000
                    + u64::from(self.dice.chance(pace.duplicates_per_mille % 1000));
                if !memory.is_empty() {
                    sends.extend((0..copies).map(|_| self.dice.pick(&memory)));
                    self.counts.duplicates.fetch_add(copies, Ordering::Relaxed);
                }
                if self.dice.chance(60) {
                    let now = chrono::Utc::now().timestamp_millis();
                    sends.push(sendable(&self.prefix, collision(&mut self.dice, now)));
                }
                if self.dice.chance(40) {
                    sends.extend(pair(&mut self.dice).map(|record| sendable(&self.prefix, record)));
                }
                if self.dice.chance(6) {
                    sends.push(sendable(&self.prefix, garbage(&mut self.dice)));
                }
            }
            for send in &sends {
                if memory.len() < MEMORY {
                    memory.push(send.clone());
                } else {
                    let at = self.dice.below(MEMORY as u64 * 3) as usize;
                    if let Some(place) = memory.get_mut(at) {
                        *place = send.clone();
                    }
                }
            }
            let count = sends.len() as u64;
            let gate = Arc::clone(&self.gate);
            let open = gate.lock().unwrap();
            let sends = self.where_they_may_go(sends);
            self.kafka.send_all(sends);
            drop(open);
            let sent = self.counts.sent.fetch_add(count, Ordering::Relaxed) + count;
            let due = Duration::from_millis(sent * 1000 / pace.per_second);
            std::thread::sleep(
                due.saturating_sub(started.elapsed())
                    .clamp(Duration::from_millis(2), Duration::from_millis(500)),
            );
        }
    }

    fn where_they_may_go(&mut self, mut sends: Vec<Send>) -> Vec<Send> {
        let without = self.counts.without.lock().unwrap();
        sends.retain(|send| !without.contains(send.topic()));
        let only = self.counts.only.lock().unwrap();
        if only.is_empty() {
            return sends;
        }
        sends.into_iter().map(|send| send.partition(self.dice.pick(&only))).collect()
    }

    /// The program's own traffic; every second clone lives for seconds. In odd waves those have ended long ago, in
    /// even ones they are about to.
    fn wave(&self, number: u64) -> Box<dyn Iterator<Item = Outgoing>> {
        let now = chrono::Utc::now().timestamp_millis();
        let (start, spacing_ms) =
            if number.is_multiple_of(2) { (now - 25_000, 20) } else { (now - 3_600_000, 1000) };
        let ttl_seconds = Some(3);
        let plan = Scenario {
            calls: 250,
            seed: self.seed * 1000 + number,
            disorder: true,
            start,
            spacing_ms,
            ttl_seconds,
        };
        Box::new(traffic(&plan).map(|sent| sent.record))
    }
}

/// An event about one of few callers, voices and calls, with one of few times: ties, overwriting, contended locks.
fn collision(dice: &mut Dice, now: i64) -> Outgoing {
    let minute = now / 60_000 * 60_000;
    let at = minute - 60_000 * dice.below(20) as i64;
    let caller = format!("+120255501{:02}", dice.below(6));
    let voice = format!("hot-voice-{}", dice.below(5));
    let call = format!("hot-call-{}", dice.below(25));
    let text = format!("{PAYLOAD_TEXT} {}", dice.below(50));
    let (topic, body) = match dice.below(10) {
        0 => (
            "clone.ready",
            json!({"caller_id": caller, "greeting_call_id": call, "cloned_voice_id": voice, "ready_at": at,
                   "clone_duration_ms": dice.below(5), "sample_file_size_bytes": dice.below(3)}),
        ),
        // Lives again, and expires again.
        1 | 2 => (
            "clone.ready",
            json!({"caller_id": caller, "greeting_call_id": call, "ready_at": now, "ttl_seconds": 1 + dice.below(4),
                   "cloned_voice_id": format!("brief-voice-{}", dice.below(12))}),
        ),
        3 | 4 => (
            "clone.transfer",
            json!({"greeting_call_id": call, "agent_call_id": format!("agent-{}", dice.below(40)),
                   "cloned_voice_id": voice, "transferred_at": at}),
        ),
        5 => (
            "clone.failed",
            json!({"caller_id": caller, "greeting_call_id": call, "error_message": text, "failed_at": at,
                   "cloned_voice_id": voice}),
        ),
        6 => (
            "caller.voice_mapping",
            json!({"caller_id": caller, "voice_sample_url": text, "voice_name": text, "updated_at": at,
                   "deleted": dice.chance(300)}),
        ),
        _ => {
            let status = dice.pick(&["initiated", "completed", "failed"]);
            let mut body = json!({"call_id": call, "status": status, "occurred_at": at, "caller_id": caller,
                "metadata": {format!("key{}", dice.below(6)): dice.below(4), "note": text, "x": dice.below(9) as f64 / 7.0}});
            if dice.chance(500) {
                body["transcript"] = text.into();
            }
            if dice.chance(300) {
                body["call_started_at"] = (at - 1000 * dice.below(90) as i64).into();
                body["call_ended_at"] = (at + 1000 * dice.below(90) as i64).into();
            }
            ("call.lifecycle", body)
        }
    };
    let key = dice.chance(700).then(|| caller.into_bytes());
    let value = Some(body.to_string().into_bytes());
    let timestamp = Some(now - dice.below(3) as i64 * 1000);
    if topic == "caller.voice_mapping" && dice.chance(150) && key.is_some() {
        return Outgoing { topic, key, value: None, headers: Vec::new(), timestamp };
    }
    Outgoing { topic, key, value, headers: Vec::new(), timestamp }
}

/// A new voice is ready and transferred at once, in two topics: two instances may write both at the same moment.
fn pair(dice: &mut Dice) -> [Outgoing; 2] {
    let voice = format!("pair-voice-{:x}", dice.below(1 << 60));
    let record = |topic, body: serde_json::Value| Outgoing {
        topic,
        key: None,
        value: Some(body.to_string().into_bytes()),
        headers: Vec::new(),
        timestamp: None,
    };
    [
        record(
            "clone.ready",
            json!({"caller_id": "pair", "greeting_call_id": "pair", "cloned_voice_id": voice}),
        ),
        record(
            "clone.transfer",
            json!({"greeting_call_id": voice, "agent_call_id": "pair", "cloned_voice_id": voice}),
        ),
    ]
}

/// Bytes and headers as a broken producer sends them; most cannot be used.
fn garbage(dice: &mut Dice) -> Outgoing {
    let long = "x".repeat(256);
    let values: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"\xff\xfe{}".to_vec(),
        b"{}{}".to_vec(),
        br#"{"caller_id":"a\u0000b","call_id":"a\u0000b"}"#.to_vec(),
        br#"{"caller_id":1e400,"call_id":1e400}"#.to_vec(),
        br#"{"call_id":"deep","status":"failed","metadata":{"a":1e16,"b":-0.0,"c":[1.10,100000000000000000000]}}"#.to_vec(),
        br#"{"call_id":"far","status":"completed","occurred_at":"9999-12-31T23:59:59.999999Z"}"#.to_vec(),
        br#"{"call_id":"past","status":"completed","occurred_at":"1969-12-31T23:59:59Z"}"#.to_vec(),
        br#"{"specversion":"1.0","type":"call.lifecycle","data":{"call_id":"wrapped","status":"initiated"}}"#.to_vec(),
        br#"{"caller_id":"\ud800","call_id":"\ud800","status":"failed"}"#.to_vec(),
        format!(r#"{{"caller_id":"{long}","call_id":"{long}","status":"failed"}}"#).into_bytes(),
        format!(r#"{{"call_id":"nested","status":"failed","metadata":{}1{}}}"#, r#"{"a":"#.repeat(101), "}".repeat(101))
            .into_bytes(),
        format!(r#"{{"call_id":"large","status":"failed","transcript":"{}"}}"#, long.repeat(400)).into_bytes(),
    ];
    let header =
        |name: &str, value: Option<&[u8]>| Header { name: name.into(), value: value.map(<[u8]>::to_vec) };
    let headers = match dice.below(5) {
        0 => vec![header("ce_specversion", Some(b"1.0")), header("ce_type", Some(b"clone.ready"))],
        1 => vec![
            header("ce_specversion", None),
            header("", Some(b"\xff")),
            header("twice", None),
            header("twice", None),
        ],
        _ => Vec::new(),
    };
    let topic = dice.pick(&TOPICS);
    let key =
        dice.pick(&[None, Some(b"".to_vec()), Some(b"\xff\xff".to_vec()), Some(b"+12025550199".to_vec())]);
    let value = if dice.chance(100) { None } else { Some(dice.pick(&values)) };
    Outgoing { topic, key, value, headers, timestamp: None }
}

//! The consumed records: seeded, of realistic size, with random-looking ids like those of a service. Their times are in
//! the hour before the run, so that nothing expires during it.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};
use voiceclone_events::record::{Outgoing, Topic};
use voiceclone_events::traffic::{self, traffic};

/// The records of a measurement: one topic alone, or all five as a service would fill them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One topic.
    Alone(Topic),
    /// The traffic of `simulate`, in order, without unusable records.
    Mix,
}

impl Kind {
    /// All kinds, `clone.ready` first.
    pub fn all() -> Vec<Kind> {
        Topic::ALL.into_iter().map(Kind::Alone).chain([Kind::Mix]).collect()
    }

    /// The name in options and output.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Alone(topic) => topic.name(),
            Kind::Mix => "mix",
        }
    }

    /// The public tables that the records are written to.
    pub fn tables(self) -> &'static [&'static str] {
        match self {
            Kind::Alone(Topic::CloneReady) => {
                &["public.clone_ready_events", "public.voice_clone_log", "public.voice_clone_cache"]
            }
            Kind::Alone(Topic::CloneFailed) => &["public.clone_failed_events", "public.voice_clone_log"],
            Kind::Alone(Topic::CloneTransfer) => &["public.clone_transfer_events"],
            Kind::Alone(Topic::CallLifecycle) => &["public.call_log"],
            Kind::Alone(Topic::CallerVoiceMapping) => &["public.caller_voice_mapping"],
            Kind::Mix => &[
                "public.clone_ready_events",
                "public.clone_failed_events",
                "public.clone_transfer_events",
                "public.voice_clone_log",
                "public.voice_clone_cache",
                "public.call_log",
                "public.caller_voice_mapping",
            ],
        }
    }

    /// The daemon's own tables with a row for each voice, call or caller.
    pub fn own_tables(self) -> &'static [&'static str] {
        match self {
            Kind::Alone(Topic::CloneFailed) => &[],
            Kind::Alone(Topic::CloneReady | Topic::CloneTransfer) => &["ingest.voices"],
            Kind::Alone(Topic::CallLifecycle) => &["ingest.calls"],
            Kind::Alone(Topic::CallerVoiceMapping) => &["ingest.mappings"],
            Kind::Mix => &["ingest.voices", "ingest.calls", "ingest.mappings"],
        }
    }

    /// `count` records; another seed gives other records.
    pub fn records(self, count: u64, seed: u64) -> Box<dyn Iterator<Item = Outgoing>> {
        match self {
            Kind::Alone(Topic::CallLifecycle) => Box::new(lifecycle(count, seed)),
            Kind::Alone(topic) => {
                let mut dice = Dice::new(seed);
                Box::new((0..count).map(move |nth| dice.record(topic, nth, count)))
            }
            Kind::Mix => {
                // A call makes four and a half records on average: this is more than enough calls.
                let calls = count.max(1);
                let spacing_ms = i64::try_from(3_600_000 / (calls / 4).max(1)).unwrap().max(1);
                let plan = traffic::Scenario {
                    calls,
                    seed,
                    disorder: false,
                    start: hour_ago(),
                    spacing_ms,
                    ttl_seconds: None,
                };
                Box::new(traffic(&plan).map(|sent| sent.record).take(usize::try_from(count).unwrap()))
            }
        }
    }
}

/// Each call begins, and ends 1,500 records later: about half of the calls begin in one batch of 3,000 and end in
/// another.
fn lifecycle(count: u64, seed: u64) -> impl Iterator<Item = Outgoing> {
    let mut dice = Dice::new(seed);
    let mut open = VecDeque::new();
    (0..count).map(move |nth| {
        let ends = open.len() >= 750 && nth % 2 == 1 || u64::try_from(open.len()).unwrap() >= count - nth;
        let call: String = if ends { open.pop_front().unwrap() } else { dice.token("conv_", 26) };
        let value = dice.call(&call, ends, nth, count);
        if !ends {
            open.push_back(call.clone());
        }
        outgoing(Topic::CallLifecycle, &call, &value)
    })
}

/// Generates records.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The same seed gives the same records.
    pub fn new(seed: u64) -> Dice {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Record `nth` of `count` of this topic.
    pub fn record(&mut self, topic: Topic, nth: u64, count: u64) -> Outgoing {
        let caller = format!("+999{:09}", self.below(1_000_000_000));
        let greeting = self.token("conv_", 26);
        let (took, size, at) = (1500 + self.below(3000), 44 + 32 * self.below(14_000), time(nth, count));
        let value = match topic {
            Topic::CloneReady => json!({
                "caller_id": caller, "greeting_call_id": greeting, "cloned_voice_id": self.token("", 20),
                "ready_at": at, "clone_duration_ms": took, "clone_created_at": at,
                "api_response_time_ms": took - took / 20, "sample_file_size_bytes": size, "ttl_seconds": 86_400,
                "producer": {"name": "greeter", "version": "2.3.1", "region": "eu-central-1"},
                "trace_id": self.token("", 32),
            }),
            Topic::CloneFailed => json!({
                "caller_id": caller, "greeting_call_id": greeting, "failed_at": at,
                "error_message": format!(
                    "the cloning service answered 503 after {took} ms: no capacity left in this region, try again later"),
                "api_response_time_ms": took, "sample_file_size_bytes": size,
                "producer": {"name": "greeter", "version": "2.3.1", "region": "eu-central-1"},
                "trace_id": self.token("", 32),
            }),
            Topic::CloneTransfer => {
                // Two transfers per voice, as some callers call again.
                let voice = Dice::new(nth / 2 + 1_000_000_000).token("", 20);
                json!({
                    "greeting_call_id": greeting, "agent_call_id": self.token("conv_", 26), "cloned_voice_id": voice,
                    "transferred_at": at, "trace_id": self.token("", 32),
                    "producer": {"name": "greeter", "version": "2.3.1", "region": "eu-central-1"},
                })
            }
            Topic::CallLifecycle => {
                return outgoing(topic, &greeting.clone(), &self.call(&greeting, true, nth, count));
            }
            Topic::CallerVoiceMapping => json!({
                "caller_id": caller, "voice_sample_url": self.token("https://samples.example.com/voices/", 24) + ".wav",
                "voice_name": "Amelia", "description": "warm, slow, made by the caller", "updated_at": at,
                "account_id": format!("acct_{:06}", self.below(100_000)), "trace_id": self.token("", 32),
                "producer": {"name": "portal", "version": "1.0.4"},
            }),
        };
        outgoing(topic, if topic == Topic::CloneTransfer { &greeting } else { &caller }, &value)
    }

    fn call(&mut self, call: &str, ends: bool, nth: u64, count: u64) -> Value {
        let pbx = format!("{:012X}_{}", self.below(1 << 48), self.below(100_000));
        if !ends {
            return json!({
                "call_id": call, "status": "initiated", "occurred_at": time(nth, count), "threecx_call_id": pbx,
                "caller_id": format!("+999{:09}", self.below(1_000_000_000)),
                "metadata": {"incoming": true, "trunk": "sip-fra", "rings": {"count": 3, "ms": 12_000}},
            });
        }
        let transcript =
            "Agent: Good morning, what can I do for you?\nCaller: My last bill is too high.\n".repeat(8);
        json!({
            "call_id": call, "status": "completed", "occurred_at": time(nth, count),
            "cloned_voice_id": self.token("", 20), "transcript": transcript,
            "metadata": {"agent": {"extension": 212, "queue": "billing"}, "quality": {"mos": 4.1, "jitter_ms": 11}},
        })
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0.next_u64() % limit
    }

    fn token(&mut self, prefix: &str, length: usize) -> String {
        const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let letters = (0..length).map(|_| char::from(LETTERS[usize::try_from(self.below(62)).unwrap()]));
        prefix.chars().chain(letters).collect()
    }
}

fn outgoing(topic: Topic, key: &str, value: &Value) -> Outgoing {
    let value = Some(value.to_string().into_bytes());
    Outgoing { topic: topic.name(), key: Some(key.into()), value, headers: Vec::new(), timestamp: None }
}

/// An hour before the first call of this function, in milliseconds.
fn hour_ago() -> i64 {
    static START: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *START.get_or_init(|| chrono::Utc::now().timestamp_millis() - 3_600_000)
}

/// The time of record `nth` of `count`: they fill the hour evenly.
fn time(nth: u64, count: u64) -> String {
    let micros = hour_ago() * 1000 + i64::try_from(nth * 3_600_000_000 / count.max(1)).unwrap();
    chrono::DateTime::from_timestamp_micros(micros)
        .unwrap()
        .to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

//! Made-up traffic: what a service that clones its callers' voices would send, call after call.
//! The same plan gives the same records, byte for byte, on every machine; hence only whole numbers,
//! exactly rounded arithmetic (no logarithms) and a generator with a fixed definition (ChaCha8).
//!
//! Every phone number lies in a range that its country keeps free for film and fiction.
//!
//! ```text
//! call ──> events of the call ──> records ──> waiting, by moment of sending ──> out
//!                                    └─ disorder: late, doubled, corrected, unusable
//! ```

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, FixedOffset, Offset, SecondsFormat, Utc};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Map, Value, json};

use crate::record::{Header, Outgoing, Topic};

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many calls, each about five records.
    pub calls: u64,
    /// Another seed, other callers and calls.
    pub seed: u64,
    /// Whether some records are late, doubled, corrected or unusable. The calls are the same either way.
    pub disorder: bool,
    /// When the first call starts, in milliseconds since 1970.
    pub start: i64,
    /// Mean time between the starts of two calls, in milliseconds.
    pub spacing_ms: i64,
    /// `ttl_seconds` of every second clone, for a show of expiry; `None` leaves all to `CACHE_TTL`.
    pub ttl_seconds: Option<i32>,
}

/// A record, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The record; its timestamp is the moment of sending.
    pub record: Outgoing,
    /// The reason of the dead letter that it has to become (contract, section 6); `None` if it is usable.
    pub unusable: Option<&'static str>,
}

/// The records of a plausible service, in the order in which they are sent.
pub fn traffic(plan: &Plan) -> impl Iterator<Item = Sent> + use<> {
    Traffic::new(plan.clone())
}

/// So many records at most wait for their moment; past that the earliest goes out before it.
const WINDOW: usize = 16_384;
/// So many callers at most, and numbers to go with them.
const CALLERS: u64 = 1 << 14;
/// In the year 8307, which leaves room before the last time that events may have.
const LATEST_START: i64 = 200_000_000_000_000;
/// How long the service thinks that a voice without a `ttl_seconds` lives: the default of `CACHE_TTL`.
const DAY_MS: i64 = 86_400_000;

struct Traffic {
    plan: Plan,
    /// Decides about the calls.
    dice: Dice,
    /// Decides about disorder, so that there are the same calls without it.
    trouble: Dice,
    first_caller: u64,
    calls_left: u64,
    next_call: i64,
    callers: HashMap<u64, Caller>,
    /// By moment of sending, then in the order in which they were made.
    waiting: BTreeMap<(i64, u64), Sent>,
    made: u64,
    last_sent: i64,
    spoiled: usize,
}

/// What the service remembers of a caller.
#[derive(Default)]
struct Caller {
    voice: Option<Voice>,
    mapped: bool,
}

#[derive(Clone)]
struct Voice {
    id: String,
    ready: i64,
    expires: i64,
}

/// Something that happened, about to be told.
#[derive(Clone)]
struct Event {
    topic: Topic,
    key: String,
    /// In microseconds since 1970.
    at: i64,
    body: Map<String, Value>,
}

#[derive(Clone, Copy, PartialEq)]
enum Envelope {
    Bare,
    Binary,
    Structured,
}

impl Iterator for Traffic {
    type Item = Sent;

    fn next(&mut self) -> Option<Sent> {
        // A call's records are all sent after its start: what is due before the next start can go out.
        while self.calls_left > 0
            && self.waiting.len() < WINDOW
            && self.waiting.first_key_value().is_none_or(|((due, _), _)| *due >= self.next_call)
        {
            self.calls_left -= 1;
            self.call();
        }
        let ((due, _), mut sent) = self.waiting.pop_first()?;
        self.last_sent = self.last_sent.max(due);
        sent.record.timestamp = Some(self.last_sent);
        Some(sent)
    }
}

impl Traffic {
    fn new(plan: Plan) -> Traffic {
        let mut dice = Dice::new(plan.seed, 0);
        let start = plan.start.clamp(0, LATEST_START);
        Traffic {
            trouble: Dice::new(plan.seed, 1),
            first_caller: dice.below(CALLERS),
            dice,
            calls_left: plan.calls,
            next_call: start,
            callers: HashMap::new(),
            waiting: BTreeMap::new(),
            made: 0,
            last_sent: start,
            spoiled: 0,
            plan,
        }
    }

    /// A greeting, during which the voice is cloned (unless that of an earlier call still lives), then
    /// the talk with the agent who speaks with it.
    fn call(&mut self) {
        let start = self.next_call;
        self.next_call += self.dice.range(0, 2 * self.plan.spacing_ms.clamp(1, DAY_MS));
        let person = self.person();
        let number = number(person);
        let mut caller = self.callers.remove(&person).unwrap_or_default();
        let greeting = self.dice.token("conv_", 26);
        let pbx = format!("{:012X}_{}", self.dice.below(1 << 48), self.dice.below(100_000));
        let trunk = self.dice.pick(&["pstn-1", "pstn-2", "sip-fra", "sip-iad"]);
        let rings = self.dice.range(1, 6);
        let body = json!({
            "call_id": greeting, "status": "initiated", "threecx_call_id": pbx, "caller_id": number,
            "call_started_at": self.dice.chance(500).then(|| self.dice.time(start * 1000)),
            "metadata": {"incoming": true, "trunk": trunk, "rings": {"count": rings, "ms": 4000 * rings}},
        });
        self.tell(Topic::CallLifecycle, &greeting, start, body);
        self.mapping(&mut caller, person, &number, start);

        let mut now = start + self.dice.around(8000, 0.12);
        let hung_up = self.dice.chance(60);
        let mut voice = caller.voice.clone().filter(|voice| voice.ready <= start && start < voice.expires);
        if voice.is_none() && !hung_up {
            voice = self.clone_voice(&number, &greeting, &mut now);
            caller.voice.clone_from(&voice);
        }
        self.callers.insert(person, caller);

        let voice = voice.map(|voice| voice.id);
        let agent = (!hung_up && self.dice.chance(970)).then(|| self.dice.token("conv_", 26));
        if let (Some(agent), Some(voice)) = (&agent, &voice) {
            now += self.dice.around(1200, 0.2);
            let body =
                json!({"greeting_call_id": greeting, "agent_call_id": agent, "cloned_voice_id": voice});
            self.tell(Topic::CloneTransfer, &number, now, body);
        }
        if self.dice.chance(985) {
            let hops = json!([{"to": "greeter", "ms": 12}, {"to": "agent", "ms": self.dice.range(20, 90)}]);
            let body = json!({
                "call_id": greeting, "status": if hung_up { "failed" } else { "completed" },
                "metadata": {"next_call": agent, "hops": hops},
            });
            self.tell(Topic::CallLifecycle, &greeting, now + 150, body);
        }
        if let Some(agent) = agent {
            self.talk(&agent, person, voice, &pbx, now + 200);
        }
    }

    /// The agent's call.
    fn talk(&mut self, call: &str, person: u64, voice: Option<String>, pbx: &str, start: i64) {
        let number = number(person);
        if self.dice.chance(250) {
            let body = json!({
                "call_id": call, "status": "initiated", "caller_id": number, "cloned_voice_id": voice,
            });
            self.tell(Topic::CallLifecycle, call, start, body);
        }
        let end = start + self.dice.around(150_000, 0.5).clamp(3000, 900_000);
        let (language, transcript) = self.transcript(person);
        let queue = self.dice.pick(&["billing", "orders", "support", "größere Schäden", "rendez-vous"]);
        let times = self.dice.chance(600).then(|| (self.dice.time(start * 1000), self.dice.time(end * 1000)));
        let (started, ended) = times.unzip();
        let dice = &mut self.dice;
        let body = json!({
            "call_id": call, "status": if dice.chance(30) { "failed" } else { "completed" },
            "threecx_call_id": pbx, "caller_id": number, "cloned_voice_id": voice,
            "call_started_at": started, "call_ended_at": ended,
            "duration_seconds": dice.chance(850).then_some((end - start) / 1000), "transcript": transcript,
            "metadata": {
                "agent": {"extension": dice.range(200, 260), "queue": queue, "skills": [language, queue]},
                "quality": {"mos": dice.range(310, 450) as f64 / 100.0, "jitter_ms": dice.range(1, 40)},
                "cost": {"amount": dice.range(1, 900) as f64 / 1000.0, "currency": "EUR"},
                "recorded": dice.chance(700), "tags": [], "survey": null,
            },
        });
        self.tell(Topic::CallLifecycle, call, end, body);
    }

    /// Clones the caller's voice; a failure may be tried once more.
    fn clone_voice(&mut self, number: &str, greeting: &str, now: &mut i64) -> Option<Voice> {
        let mut took = self.dice.around(2800, 0.17);
        let size = 44 + 32 * self.dice.around(7000, 0.1);
        *now += took;
        if self.dice.chance(45) {
            let error = self.dice.pick(ERRORS).replace("{}", &self.dice.range(2, 30).to_string());
            let body = json!({
                "caller_id": number, "greeting_call_id": greeting, "error_message": error,
                "api_response_time_ms": took, "sample_file_size_bytes": size,
            });
            self.tell(Topic::CloneFailed, number, *now, body);
            if self.dice.chance(400) {
                return None;
            }
            took = self.dice.around(2800, 0.17);
            *now += 1000 + took;
        }
        let (id, ready) = (self.dice.token("", 20), *now);
        let ttl = if self.dice.chance(500) { self.plan.ttl_seconds } else { None };
        let body = json!({
            "caller_id": number, "greeting_call_id": greeting, "cloned_voice_id": id,
            "clone_duration_ms": took,
            "api_response_time_ms": self.dice.chance(800).then_some(took - took / 20),
            "sample_file_size_bytes": size, "ttl_seconds": ttl,
            "producer": {"name": "greeter", "version": "2.3.1"},
            "clone_created_at": self.dice.chance(300).then(|| self.dice.time((ready - 60) * 1000)),
        });
        self.tell(Topic::CloneReady, number, ready, body);
        Some(Voice { id, ready, expires: ready + ttl.map_or(DAY_MS, |seconds| i64::from(seconds) * 1000) })
    }

    /// Some callers choose a voice of their own, change it now and then, and may withdraw it.
    fn mapping(&mut self, caller: &mut Caller, person: u64, number: &str, start: i64) {
        let topic = Topic::CallerVoiceMapping;
        let at = start + self.dice.range(500, 4000);
        match (caller.mapped, self.dice.below(1000)) {
            (true, 0..15) => {
                caller.mapped = false;
                self.tell(topic, number, at, json!({"caller_id": number, "deleted": true}));
            }
            (true, 15..30) => {
                caller.mapped = false;
                let key = Some(number.as_bytes().to_vec());
                let tombstone =
                    Outgoing { topic: topic.name(), key, value: None, headers: Vec::new(), timestamp: None };
                self.send(at, tombstone, None);
            }
            (true, 30..100) | (false, 0..400) => {
                caller.mapped = true;
                let sample = self.dice.token("https://samples.example.com/voices/", 12);
                let description =
                    self.dice.pick(&["", "warm, slow", "made by the caller", "klingt jünger 🙂"]);
                let body = json!({
                    "caller_id": number, "voice_sample_url": format!("{sample}.wav"),
                    "voice_name": self.dice.pick(VOICES), "description": description,
                    "account_id": format!("acct_{:06}", person % 997),
                });
                self.tell(topic, number, at, body);
            }
            _ => {}
        }
    }

    /// Who calls: few often, most seldom. The 32 who call most have the same share of the calls as the
    /// next 64, the next 128, and so on up to about twice as many callers as calls.
    fn person(&mut self) -> u64 {
        let doublings = u64::from(65 - self.plan.calls.leading_zeros()).clamp(8, 14) - 5;
        let rank = 32 << self.dice.below(doublings);
        (self.first_caller + (rank + self.dice.below(rank)) * 7919) % CALLERS
    }

    /// What was said, and in which language; agent and caller take turns.
    fn transcript(&mut self, person: u64) -> (&'static str, String) {
        let languages = country(person).map_or(["en"].as_slice(), |country| country.languages);
        let language = languages.get(person as usize / 7 % languages.len()).copied().unwrap_or_default();
        let mut lines = Vec::new();
        if let Some((_, agent, caller)) = LANGUAGES.iter().find(|(tag, ..)| *tag == language) {
            for turn in 0..self.dice.range(3, 12) {
                let (who, sentences) = if turn % 2 == 0 { ("Agent", agent) } else { ("Caller", caller) };
                // A call opens with the first sentence of the agent.
                let choice = if turn == 0 { 1 } else { sentences.len() };
                let sentence = self.dice.pick(sentences.get(..choice).unwrap_or_default());
                let number = self.dice.range(10, 23).to_string();
                lines.push(format!("{who}: {}", sentence.replace("{}", &number)));
            }
        }
        (language, lines.join("\n"))
    }

    /// Makes an event's records: one, and with disorder perhaps more. `at` is in milliseconds.
    fn tell(&mut self, topic: Topic, key: &str, at: i64, body: Value) {
        let Value::Object(body) = body else { return };
        let at = at * 1000 + if self.dice.chance(300) { self.dice.range(0, 999) } else { 0 };
        let mut event = Event { topic, key: key.to_owned(), at, body };
        let envelope = match self.dice.below(10) {
            0 => Envelope::Structured,
            1 => Envelope::Binary,
            _ => Envelope::Bare,
        };
        let late = self.plan.disorder && self.trouble.chance(50);
        let (time, timed) = (self.dice.time(at), self.dice.chance(900));
        // A failure's time is part of what it is, and that of a late event is not when it is sent.
        if timed || late || topic == Topic::CloneFailed {
            event.body.insert(fields(topic).0.to_owned(), time);
        }
        let record = event.record(&mut self.dice, envelope, topic.name());
        let mut due = at / 1000 + self.dice.range(2, 250);
        if self.plan.disorder {
            due += if late { self.trouble.delay() } else { 0 };
            self.disturb(&event, &record, due);
        }
        self.send(due, record, None);
    }

    /// What disorder adds to a record that is sent then.
    fn disturb(&mut self, event: &Event, record: &Outgoing, due: i64) {
        if self.trouble.chance(30) {
            let again = due + self.trouble.delay();
            self.send(again, record.clone(), None);
        }
        if self.trouble.chance(15) {
            let again = due + self.trouble.delay();
            let corrected = event.corrected(&mut self.trouble);
            self.send(again, corrected, None);
        }
        // Of a delete little is looked at: not every fault would be one.
        if self.trouble.chance(10) && !event.body.contains_key("deleted") {
            let (reason, faults) = FAULTS.get(self.spoiled % FAULTS.len()).copied().unwrap_or_default();
            self.spoiled += 1;
            let spoiled = event.spoiled(&mut self.trouble, reason, faults);
            self.send(due, spoiled, Some(reason));
        }
    }

    fn send(&mut self, due: i64, record: Outgoing, unusable: Option<&'static str>) {
        self.made += 1;
        self.waiting.insert((due, self.made), Sent { record, unusable });
    }
}

impl Event {
    fn record(&self, dice: &mut Dice, envelope: Envelope, kind: &str) -> Outgoing {
        let body = Value::Object(self.body.clone());
        if envelope == Envelope::Bare {
            return self.outgoing(Some(body.to_string().into_bytes()), Vec::new());
        }
        let id = dice.token("evt_", 22);
        let time = rfc3339(self.at, 0);
        let attributes =
            [("specversion", "1.0"), ("id", &id), ("source", "/greeter"), ("type", kind), ("time", &time)];
        if envelope == Envelope::Binary {
            let mut headers = vec![header("content-type", "application/json")];
            headers.extend(attributes.map(|(name, value)| header(&format!("ce_{name}"), value)));
            return self.outgoing(Some(body.to_string().into_bytes()), headers);
        }
        let mut whole: Map<_, _> =
            attributes.map(|(name, value)| (name.to_owned(), json!(value))).into_iter().collect();
        whole.insert("data".to_owned(), body);
        // Without the header it is the body's `specversion` that tells.
        let told = dice.chance(700).then(|| header("content-type", "application/cloudevents+json"));
        self.outgoing(Some(Value::Object(whole).to_string().into_bytes()), told.into_iter().collect())
    }

    fn outgoing(&self, value: Option<Vec<u8>>, headers: Vec<Header>) -> Outgoing {
        let key = Some(self.key.as_bytes().to_vec());
        Outgoing { topic: self.topic.name(), key, value, headers, timestamp: None }
    }

    /// The same event told again, with contents that are greater.
    fn corrected(&self, dice: &mut Dice) -> Outgoing {
        let mut event = self.clone();
        let (time, integers, _) = fields(self.topic);
        let moved = if self.topic == Topic::CloneTransfer { 200_000 } else { 0 };
        if moved > 0 || !event.body.contains_key(time) {
            event.body.insert(time.to_owned(), dice.time(self.at + moved));
        }
        for (name, value) in &mut event.body {
            if let Some(number) = value.as_i64().filter(|_| integers.contains(&name.as_str())) {
                *value = json!(number + dice.range(1, 500));
            } else if let (Value::String(text), "error_message" | "transcript" | "voice_name") =
                (value, name.as_str())
            {
                text.push_str(" (corrected)");
            }
        }
        event.record(dice, Envelope::Bare, self.topic.name())
    }

    /// The same event told with exactly one fault, that of the reason.
    fn spoiled(&self, dice: &mut Dice, reason: &str, faults: &[Fault]) -> Outgoing {
        let (time, integers, texts) = fields(self.topic);
        let (text, limit) = dice.pick(texts);
        let mut envelope = if dice.chance(300) { Envelope::Binary } else { Envelope::Bare };
        let mut kind = self.topic.name();
        if reason == "wrong_type_for_topic" {
            envelope = if dice.chance(500) { Envelope::Binary } else { Envelope::Structured };
            kind = dice.pick(&Topic::ALL.map(Topic::name));
            kind = if kind == self.topic.name() { "clone.expired" } else { kind };
        }
        let mut record = self.record(dice, envelope, kind);
        let Some(whole) = record.value.take() else { return record };
        let of_topic = |(field, raw): &Fault| match *field {
            "TEXT" => Some((text, *raw)),
            "TIME" => Some((time, *raw)),
            "INTEGER" => integers.first().map(|name| (*name, *raw)),
            "RECORD" | "VALUE" => Some((*field, *raw)),
            name => (self.topic == Topic::CallLifecycle).then_some((name, *raw)),
        };
        let faults: Vec<_> = faults.iter().filter_map(of_topic).collect();
        record.value = match dice.pick(&faults) {
            ("RECORD", b"cut off") => Some(whole.iter().copied().take(whole.len() / 2).collect()),
            ("RECORD", b"byte order mark") => Some([b"\xef\xbb\xbf", whole.as_slice()].concat()),
            ("RECORD", b"two") => Some([whole.as_slice(), &whole].concat()),
            ("RECORD", b"twice") => {
                let first = format!("{{\"{text}\":\"twice\",").into_bytes();
                Some([&first, whole.get(1..).unwrap_or_default()].concat())
            }
            ("RECORD", b"in a list") => Some([b"[", whole.as_slice(), b"]"].concat()),
            ("RECORD", b"as text") => Some(json!(String::from_utf8_lossy(&whole)).to_string().into_bytes()),
            ("RECORD", b"left out") => {
                let kept = self.body.iter().filter(|(name, _)| *name != text);
                Some(json!(kept.collect::<BTreeMap<_, _>>()).to_string().into_bytes())
            }
            ("RECORD", b"none") => {
                // In the compacted topic a null value deletes, if its key names a caller.
                if self.topic == Topic::CallerVoiceMapping {
                    record.key = dice.pick(&[None, Some(b"\xff".as_slice()), Some(b" ")]).map(<[u8]>::to_vec);
                }
                None
            }
            ("RECORD", b"as it is") => Some(whole),
            ("VALUE", raw) => Some(raw.to_vec()),
            ("metadata", b"deep") => {
                let levels = ["{\"a\":".repeat(101), "1".to_owned(), "}".repeat(101)].concat();
                Some(self.with("metadata", levels.as_bytes()))
            }
            // Characters count, not bytes.
            (field, letter) if reason == "too_long" => {
                Some(self.with(field, &[b"\"", letter.repeat(limit + 1).as_slice(), b"\""].concat()))
            }
            (field, raw) => Some(self.with(field, raw)),
        };
        record
    }

    /// The body with one field that reads exactly so.
    fn with(&self, field: &str, raw: &[u8]) -> Vec<u8> {
        let mut body = self.body.clone();
        body.insert(field.to_owned(), json!("@here@"));
        let text = Value::Object(body).to_string();
        let (before, after) = text.split_once("\"@here@\"").unwrap_or_default();
        [before.as_bytes(), raw, after.as_bytes()].concat()
    }
}

/// Those fields of a topic that faults and corrections are about: its time, integers, and required texts
/// with the number of characters that each may have.
type Fields = (&'static str, &'static [&'static str], &'static [(&'static str, usize)]);

#[rustfmt::skip]
fn fields(topic: Topic) -> Fields {
    match topic {
        Topic::CloneReady => ("ready_at", &["clone_duration_ms", "sample_file_size_bytes"],
            &[("caller_id", 255), ("greeting_call_id", 255), ("cloned_voice_id", 255)]),
        Topic::CloneFailed => ("failed_at", &["api_response_time_ms", "sample_file_size_bytes"],
            &[("caller_id", 255), ("greeting_call_id", 255)]),
        Topic::CloneTransfer => ("transferred_at", &[],
            &[("greeting_call_id", 255), ("agent_call_id", 255), ("cloned_voice_id", 255)]),
        Topic::CallLifecycle => ("occurred_at", &["duration_seconds"], &[("call_id", 255)]),
        Topic::CallerVoiceMapping => ("updated_at", &[], &[("caller_id", 255), ("voice_sample_url", 2048)]),
    }
}

/// Where something is wrong, and what stands there.
type Fault = (&'static str, &'static [u8]);

/// What is wrong with unusable records, by reason; they take the reasons in turn. The other two of the
/// contract, `too_large` and `rejected_by_database`, depend on settings and on the database.
///
/// `TEXT`, `INTEGER` and `TIME` are one of the topic's fields, a name is one of `call.lifecycle`, `VALUE`
/// is the whole value; with `RECORD` the second is what [`Event::spoiled`] does to it.
#[rustfmt::skip]
const FAULTS: [(&str, &[Fault]); 9] = [
    ("invalid_json", &[("RECORD", b"cut off"), ("RECORD", b"byte order mark"), ("RECORD", b"two"),
        ("RECORD", b"twice"), ("TEXT", b"\"M\xfcller\""), ("TEXT", br#""\ud83d""#), ("TIME", b"1e999"),
        ("metadata", b"deep")]),
    ("not_an_object", &[("RECORD", b"in a list"), ("RECORD", b"as text"), ("VALUE", b"42"),
        ("VALUE", br#"{"specversion":"1.0","id":"1","source":"/greeter"}"#),
        ("VALUE", br#"{"specversion":"1.0","id":"1","source":"/greeter","data":"e30="}"#)]),
    ("missing_field", &[("RECORD", b"left out"), ("TEXT", b"null"), ("TEXT", b"\"\""),
        ("TEXT", br#"" \t\u2003""#), ("status", b"null")]),
    ("invalid_type", &[("TEXT", b"42"), ("TEXT", b"{}"), ("TIME", b"true"), ("INTEGER", b"\"5\""),
        ("INTEGER", b"true"), ("metadata", b"[]")]),
    ("invalid_value", &[("TIME", b"\"yesterday\""), ("TIME", b"\"2026-02-30T10:00:00Z\""), ("TIME", b"-1"),
        ("INTEGER", b"-1"), ("INTEGER", b"1.5"), ("INTEGER", b"2147483648"), ("status", b"\"ringing\"")]),
    ("too_long", &[("TEXT", b"x"), ("TEXT", "語".as_bytes()), ("TEXT", "🙂".as_bytes())]),
    ("nul_character", &[("TEXT", br#""a\u0000b""#), ("transcript", br#""Agent: \u0000""#),
        ("metadata", br#"{"tags":["ok",{"\u0000":1}]}"#)]),
    ("tombstone", &[("RECORD", b"none")]),
    ("wrong_type_for_topic", &[("RECORD", b"as it is")]),
];

fn header(name: &str, value: &str) -> Header {
    Header::new(name, value)
}

fn rfc3339(micros: i64, hours_east: i32) -> String {
    let utc = DateTime::from_timestamp_micros(micros).unwrap_or_default();
    let zone = FixedOffset::east_opt(hours_east * 3600).unwrap_or(Utc.fix());
    utc.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Random choices with a definition of their own, so that no library's next version changes them.
struct Dice(ChaCha8Rng);

impl Dice {
    fn new(seed: u64, stream: u64) -> Dice {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(seed.to_le_bytes()).for_each(|(to, from)| *to = from);
        let mut generator = ChaCha8Rng::from_seed(bytes);
        generator.set_stream(stream);
        Dice(generator)
    }

    /// 0 up to and without the limit.
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.0.next_u64()) * u128::from(limit)) >> 64) as u64
    }

    /// Both ends included.
    fn range(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }

    fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    fn pick<T: Copy + Default>(&mut self, from: &[T]) -> T {
        from.get(self.below(from.len() as u64) as usize).copied().unwrap_or_default()
    }

    fn token(&mut self, prefix: &str, length: usize) -> String {
        const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        prefix.chars().chain((0..length).map(|_| char::from(self.pick(LETTERS)))).collect()
    }

    /// Nearly lognormal around the median: eight factors, each up to so much more or less than 1.
    fn around(&mut self, median: i64, spread: f64) -> i64 {
        let product = (0..8).fold(median as f64, |product, _| {
            let factor = 1.0 + spread * (self.below(1 << 53) as f64 / (1u64 << 53) as f64);
            if self.chance(500) { product * factor } else { product / factor }
        });
        product as i64
    }

    /// A second to an hour in milliseconds, short ones more often.
    fn delay(&mut self) -> i64 {
        let least = 1000 << self.below(12);
        (least + self.range(0, least)).min(3_600_000)
    }

    /// A time as one or another producer writes it.
    fn time(&mut self, micros: i64) -> Value {
        let utc = DateTime::from_timestamp_micros(micros).unwrap_or_default();
        match self.below(12) {
            0..=4 => json!(rfc3339(micros, 0)),
            5 | 6 => json!(rfc3339(micros, 2)),
            7 => json!(rfc3339(micros, -5)),
            8 => json!(format!("{}{:03}Z", utc.format("%Y-%m-%dT%H:%M:%S%.6f"), self.below(1000))),
            9 => json!(utc.format("%Y-%m-%d %H:%M:%S%.6f").to_string()),
            _ if micros % 1000 == 0 => json!(micros / 1000),
            _ => json!(micros as f64 / 1000.0),
        }
    }
}

struct Country {
    code: &'static str,
    areas: &'static [&'static str],
    then: &'static str,
    digits: usize,
    languages: &'static [&'static str],
}

/// The numbers that regulators keep for fiction: 555-01xx of the NANP, Ofcom's, ARCEP's, the
/// Bundesnetzagentur's, ACMA's and ComReg's drama numbers. Each has room for a seventh of `CALLERS`.
#[rustfmt::skip]
const COUNTRIES: [Country; 7] = [
    Country { code: "+1", then: "55501", digits: 2, languages: &["en", "es", "en", "zh"], areas: &[
        "202", "206", "212", "213", "214", "303", "305", "312", "314", "404", "415", "503",
        "512", "602", "617", "702", "713", "718", "801", "808", "901", "907", "915", "919"] },
    Country { code: "+1", then: "55501", digits: 2, languages: &["en", "fr"], areas: &[
        "204", "236", "250", "289", "306", "343", "403", "416", "418", "431", "438", "450",
        "506", "514", "519", "581", "587", "604", "613", "647", "705", "709", "778", "819"] },
    Country { code: "+44", then: "", digits: 3, languages: &["en", "en", "pl"],
        areas: &["7700900", "2079460", "1632960", "1614960"] },
    Country { code: "+33", then: "", digits: 4, languages: &["fr"], areas: &["19900", "63998", "46571"] },
    Country { code: "+49", then: "", digits: 3, languages: &["de", "de", "tr"],
        areas: &["3023125", "6990009", "4066969", "2214710"] },
    Country { code: "+61", then: "", digits: 4, languages: &["en", "zh"],
        areas: &["25550", "35550", "75550", "85550"] },
    Country { code: "+353", then: "", digits: 5, languages: &["en", "pl"], areas: &["2091"] },
];

fn country(person: u64) -> Option<&'static Country> {
    COUNTRIES.get((person % COUNTRIES.len() as u64) as usize)
}

/// A caller's phone number; each has another.
fn number(person: u64) -> String {
    let Some(Country { code, areas, then, digits, .. }) = country(person) else { return String::new() };
    let (nth, areas_len) = (person / COUNTRIES.len() as u64, areas.len() as u64);
    let area = areas.get((nth % areas_len) as usize).unwrap_or(&"");
    let last = (nth / areas_len * 37 + 11) % 10u64.pow(*digits as u32);
    format!("{code}{area}{then}{last:0digits$}")
}

const VOICES: &[&str] =
    &["Zoë", "Łukasz", "Jürgen", "Aoife", "美咲", "Ayşe", "Marie-Noëlle", "O'Brien", "Sam"];

#[rustfmt::skip]
const ERRORS: &[&str] = &[
    "429 Too Many Requests: {} requests in flight, the plan allows fewer",
    "Voice limit reached: all {} slots of the account are taken",
    "Sample too short: {} s of speech found, more is needed",
    "No answer from the voice API within {} s",
    "HTTP 500 from the voice API: {\"detail\": {\"status\": \"internal_error\", \"attempt\": {}}}",
    "More than one speaker in the sample (“{} segments”)",
];

/// What agents and what callers say in a language; `{}` is some number.
type Spoken = (&'static str, &'static [&'static str], &'static [&'static str]);

#[rustfmt::skip]
const LANGUAGES: [Spoken; 7] = [
    ("en", &["Good morning, thanks for holding. How can I help?", "Could you read me the order number?",
        "I've moved your appointment to {} Elm Street.", "Anything else I can do for you? 🙂"],
        &["Hi, it's about invoice 88{}; I was charged twice.", "It's 47{}, the café one.", "That's my voice!",
        "I've waited {} minutes, and the line said \"almost there\".", "No, that's all. Thanks, bye."]),
    ("de", &["Guten Tag, schön, dass Sie anrufen. Worum geht es?", "Darf ich Ihre Kundennummer hören?",
        "Ich überweise Ihnen {} Euro zurück.", "Größere Schäden prüft ein Kollege vor Ort."],
        &["Grüß Gott, Müller hier, es geht um die Rechnung 88{}.",
        "Die Nummer ist 47{}, die Straße stimmt noch.", "Das hört sich ja an wie ich!",
        "Nein, das wäre alles. Tschüß!"]),
    ("fr", &["Bonjour, que puis-je faire pour vous ?", "Votre numéro de dossier, s'il vous plaît ?",
        "J'ai noté : livraison prévue à {} heures.", "Je vous souhaite une excellente journée !"],
        &["Allô, j'ai reçu le colis n° 88{} abîmé.", "C'est le 47{}, à Saint-Étienne.", "On dirait ma voix…",
        "Où en est mon remboursement de {} € ?", "Parfait, au revoir."]),
    ("es", &["¡Hola! ¿En qué puedo ayudarle?", "¿Me dice el número de pedido, por favor?",
        "Su cita queda para mañana a las {}.", "¡Que tenga un buen día!"],
        &["Llamo por la factura 88{}.", "Es el 47{}, a nombre de Íñigo Muñoz.", "¡Qué raro, suena como yo!"]),
    ("pl", &["Dzień dobry, w czym mogę pomóc?", "Zwrot {} zł już wysłałem.", "Przepraszam za opóźnienie."],
        &["Dzień dobry, chodzi o fakturę 88{}.", "Numer 47{}, ulica Źródlana.", "Brzmi zupełnie jak ja!"]),
    ("tr", &["İyi günler, size nasıl yardımcı olabilirim?", "Özür dilerim, hemen düzeltiyorum."],
        &["Merhaba, 88{} numaralı sipariş gelmedi.", "Bu benim sesim değil mi?", "Teşekkürler, iyi günler."]),
    ("zh", &["您好，请问有什么可以帮您？", "请告诉我您的订单号。", "退款{}元已经处理。"],
        &["你好，我的包裹88{}还没到。", "这声音怎么跟我一样？😮", "好的，谢谢，再见。"]),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;

    fn plan(calls: u64, disorder: bool) -> Plan {
        Plan { calls, seed: 7, disorder, start: 1_767_225_600_000, spacing_ms: 2000, ttl_seconds: None }
    }

    fn sent(calls: u64, disorder: bool) -> Vec<Sent> {
        traffic(&plan(calls, disorder)).collect()
    }

    fn body(sent: &Sent) -> Option<Map<String, Value>> {
        let value: Value = serde_json::from_slice(sent.record.value.as_deref()?).unwrap();
        match value.get("specversion") {
            Some(_) => value["data"].as_object().cloned(),
            None => value.as_object().cloned(),
        }
    }

    fn micros(time: &Value) -> i64 {
        match time {
            Value::Number(millis) => (millis.as_f64().unwrap() * 1000.0).round() as i64,
            _ => {
                let text = time.as_str().unwrap();
                let zoned = DateTime::parse_from_rfc3339(text)
                    .unwrap_or_else(|_| DateTime::parse_from_rfc3339(&format!("{text}Z")).unwrap());
                zoned.timestamp_micros()
            }
        }
    }

    /// One id for all bytes of all records.
    fn fingerprint(plan: &Plan) -> String {
        let all = traffic(plan).fold(uuid::Uuid::nil(), |before, Sent { record, unusable }| {
            let headers: Vec<_> =
                record.headers.into_iter().map(|h| (String::from_utf8(h.name).unwrap(), h.value)).collect();
            let bytes = (record.topic, record.key, record.value, headers, record.timestamp, unusable);
            uuid::Uuid::new_v5(&before, format!("{bytes:?}").as_bytes())
        });
        all.to_string()
    }

    #[test]
    fn one_plan_makes_the_same_bytes_today_and_forever() {
        assert_eq!(fingerprint(&plan(300, false)), "0a210e6d-bf8a-5485-a090-cce0fdf8a502");
        assert_eq!(fingerprint(&plan(300, true)), "08efa708-47dd-57b0-aba4-e373d3f81c7f");
    }

    #[test]
    fn another_seed_makes_other_records() {
        let other = Plan { seed: 8, ..plan(100, false) };
        let values = |plan: &Plan| traffic(plan).filter_map(|sent| sent.record.value).collect::<HashSet<_>>();
        assert!(values(&plan(100, false)).is_disjoint(&values(&other)));
    }

    #[test]
    fn no_calls_make_no_records() {
        assert_eq!(traffic(&plan(0, true)).count(), 0);
    }

    #[test]
    fn a_call_makes_about_five_records_and_all_topics_occur() {
        let sent = sent(4000, false);
        let a_call = sent.len() as f64 / 4000.0;
        assert!((4.5..5.5).contains(&a_call), "{a_call}");
        for (topic, share) in [
            (Topic::CloneReady, 0.08..0.18),
            (Topic::CloneFailed, 0.003..0.012),
            (Topic::CloneTransfer, 0.15..0.22),
            (Topic::CallLifecycle, 0.55..0.68),
            (Topic::CallerVoiceMapping, 0.02..0.08),
        ] {
            let count = sent.iter().filter(|sent| sent.record.topic == topic.name()).count();
            assert!(
                share.contains(&(count as f64 / sent.len() as f64)),
                "{topic}: {count} of {}",
                sent.len()
            );
        }
    }

    #[test]
    fn records_leave_in_the_order_of_their_timestamps() {
        for disorder in [false, true] {
            let times: Vec<i64> = sent(2000, disorder).iter().map(|s| s.record.timestamp.unwrap()).collect();
            assert!(times.is_sorted());
            assert!(times[0] >= plan(0, false).start);
        }
    }

    #[test]
    fn a_usable_record_is_an_object_with_its_required_texts_or_deletes_a_mapping() {
        for sent in sent(3000, true).iter().filter(|sent| sent.unusable.is_none()) {
            let topic = Topic::from_name(sent.record.topic).unwrap();
            let key = std::str::from_utf8(sent.record.key.as_ref().unwrap()).unwrap();
            let Some(body) = body(sent) else {
                assert_eq!(topic, Topic::CallerVoiceMapping);
                assert!(key.starts_with('+'));
                continue;
            };
            let names_key = |name| body.get(name).is_some_and(|id| id == key);
            assert!(topic == Topic::CloneTransfer || names_key("call_id") || names_key("caller_id"));
            for (name, limit) in fields(topic).2 {
                let there = body
                    .get(*name)
                    .and_then(Value::as_str)
                    .is_some_and(|text| text.chars().count() <= *limit);
                assert!(
                    there || (body.get("deleted").is_some() && *name != "caller_id"),
                    "{name} of {topic}"
                );
            }
        }
    }

    #[test]
    fn without_disorder_everything_is_usable_sent_once_and_soon() {
        let sent = sent(3000, false);
        assert!(sent.iter().all(|sent| sent.unusable.is_none()));
        let values: HashSet<_> = sent.iter().filter_map(|sent| sent.record.value.as_ref()).collect();
        let tombstones = sent.iter().filter(|sent| sent.record.value.is_none()).count();
        // Two deletes of one caller that give no time may read the same.
        assert!(values.len() + tombstones + 3 >= sent.len());
        assert!(lags(&sent).iter().all(|lag| (0..=251_000).contains(lag)));
    }

    /// By how many microseconds each record is behind its event, where it gives the event's time.
    fn lags(sent: &[Sent]) -> Vec<i64> {
        let lag = |sent: &Sent| {
            let topic = Topic::from_name(sent.record.topic)?;
            let at = micros(body(sent)?.get(fields(topic).0)?);
            Some(sent.record.timestamp? * 1000 - at)
        };
        sent.iter().filter(|sent| sent.unusable.is_none()).filter_map(lag).collect()
    }

    #[test]
    fn disorder_disturbs_the_same_calls() {
        let ids = |disorder| -> BTreeSet<String> {
            let lifecycle = |sent: &Sent| Some(body(sent)?.get("call_id")?.as_str()?.to_owned());
            sent(500, disorder).iter().filter(|sent| sent.unusable.is_none()).filter_map(lifecycle).collect()
        };
        assert_eq!(ids(true), ids(false));
    }

    #[test]
    fn disorder_makes_some_records_late_by_seconds_to_an_hour() {
        let lags = lags(&sent(4000, true));
        let late = lags.iter().filter(|lag| **lag > 1_000_000).count();
        assert!((0.04..0.14).contains(&(late as f64 / lags.len() as f64)), "{late} of {}", lags.len());
        assert!(lags.iter().any(|lag| *lag > 1_800_000_000));
        assert!(lags.iter().all(|lag| *lag < 2 * 3_601_000_000));
    }

    #[test]
    fn disorder_repeats_some_records_exactly_and_others_with_greater_contents() {
        let sent = sent(3000, true);
        let mut seen = HashMap::new();
        for sent in sent.iter().filter(|sent| sent.unusable.is_none() && sent.record.value.is_some()) {
            *seen.entry((&sent.record.topic, &sent.record.value, &sent.record.key)).or_insert(0) += 1;
        }
        let repeated = seen.values().filter(|times| **times > 1).count() as f64 / seen.len() as f64;
        assert!((0.02..0.04).contains(&repeated), "{repeated}");

        let mut durations: HashMap<String, BTreeSet<i64>> = HashMap::new();
        for body in sent.iter().filter(|sent| sent.unusable.is_none()).filter_map(body) {
            if let Some(took) = body.get("clone_duration_ms").and_then(Value::as_i64) {
                durations.entry(body["cloned_voice_id"].to_string()).or_default().insert(took);
            }
        }
        assert!(durations.values().filter(|took| took.len() > 1).count() > 5);
    }

    #[test]
    fn disorder_makes_one_record_in_a_hundred_unusable_for_each_reason_alike() {
        let sent = sent(4000, true);
        let count = |reason| sent.iter().filter(|sent| sent.unusable == Some(reason)).count();
        let counts: Vec<usize> = FAULTS.iter().map(|(reason, _)| count(*reason)).collect();
        let share = counts.iter().sum::<usize>() as f64 / sent.len() as f64;
        assert!((0.007..0.013).contains(&share), "{share}");
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    }

    #[test]
    fn every_fault_occurs_and_only_invalid_json_is_no_json() {
        let sent = sent(20_000, true);
        let faulty: Vec<&Sent> = sent.iter().filter(|sent| sent.unusable.is_some()).collect();
        let holds = |reason: &str, part: &[u8]| {
            faulty
                .iter()
                .filter(|sent| sent.unusable == Some(reason))
                .filter_map(|sent| sent.record.value.as_ref())
                .any(|value| value.windows(part.len()).any(|window| window == part))
        };
        for (reason, faults) in FAULTS {
            for (_, raw) in faults.iter().filter(|(field, _)| *field != "RECORD") {
                let raw = if *raw == b"deep" { br#"{"a":{"a":{"a":"# } else { *raw };
                assert!(holds(reason, raw), "{reason}: {}", String::from_utf8_lossy(raw));
            }
        }
        for raw in [b"\xef\xbb\xbf".as_slice(), b"\":\"twice\",\"", b"}{"] {
            assert!(holds("invalid_json", raw), "{}", String::from_utf8_lossy(raw));
        }
        for sent in faulty.iter().filter(|sent| sent.unusable != Some("invalid_json")) {
            let Some(value) = &sent.record.value else {
                assert_eq!(sent.unusable, Some("tombstone"));
                continue;
            };
            let value: Value = serde_json::from_slice(value).unwrap();
            let structured = value.get("specversion").is_some() && !value["data"].is_object();
            assert_eq!(!value.is_object() || structured, sent.unusable == Some("not_an_object"));
        }
    }

    #[test]
    fn callers_come_back_and_their_voices_are_used_again() {
        let sent = sent(2000, false);
        let voices = |topic: Topic| {
            let of_topic = sent.iter().filter(move |sent| sent.record.topic == topic.name());
            of_topic.filter_map(|sent| Some(body(sent)?["cloned_voice_id"].as_str()?.to_owned()))
        };
        let cloned: HashSet<String> = voices(Topic::CloneReady).collect();
        let mut uses: HashMap<String, u32> = HashMap::new();
        voices(Topic::CloneTransfer).for_each(|voice| *uses.entry(voice).or_default() += 1);
        assert!(uses.keys().all(|voice| cloned.contains(voice) && voice.len() == 20));
        assert!(uses.values().filter(|uses| **uses > 1).count() > 100);
        assert!(uses.values().max().unwrap() > &5);
    }

    #[test]
    fn a_short_ttl_is_given_to_half_of_the_clones_if_the_plan_has_one() {
        let ttls = |ttl_seconds| {
            let plan = Plan { ttl_seconds, ..plan(1000, false) };
            let all: Vec<Value> =
                traffic(&plan).filter_map(|s| body(&s)?.get("ttl_seconds").cloned()).collect();
            (all.iter().filter(|ttl| **ttl == 20).count(), all.len())
        };
        let (short, all) = ttls(Some(20));
        assert!(short * 5 > all * 2 && short * 5 < all * 3, "{short} of {all}");
        assert_eq!(ttls(None).0, 0);
    }

    #[test]
    fn envelopes_and_forms_of_time_are_mixed() {
        let sent = sent(1000, false);
        let share = |has: &dyn Fn(&Sent) -> bool| sent.iter().filter(|s| has(s)).count() * 100 / sent.len();
        let text = |sent: &Sent| String::from_utf8(sent.record.value.clone().unwrap_or_default()).unwrap();
        assert!((7..13).contains(&share(&|s| text(s).contains("\"specversion\""))));
        assert!((7..13).contains(&share(&|s| s.record.headers.iter().any(|h| h.name == b"ce_specversion"))));
        for part in ["Z\"", "+02:00\"", "-05:00\"", "_at\":17"] {
            assert!(share(&|s| text(s).contains(part)) > 3, "{part}");
        }
        assert!(share(&|s| !text(s).is_ascii()) > 5);
    }

    #[test]
    fn each_caller_has_a_number_of_its_own() {
        let numbers: HashSet<String> = (0..CALLERS).map(number).collect();
        assert_eq!(numbers.len() as u64, CALLERS);
        let plausible = |n: &String| n.starts_with('+') && n[1..].bytes().all(|b| b.is_ascii_digit());
        assert!(numbers.iter().all(|n| plausible(n) && (11..=13).contains(&n.len())));
    }

    #[test]
    fn clones_take_two_to_four_seconds_mostly() {
        let mut dice = Dice::new(1, 0);
        let mut took: Vec<i64> = (0..10_000).map(|_| dice.around(2800, 0.17)).collect();
        took.sort_unstable();
        assert!((1700..2300).contains(&took[1000]), "{}", took[1000]);
        assert!((2700..2900).contains(&took[5000]), "{}", took[5000]);
        assert!((3500..4500).contains(&took[9000]), "{}", took[9000]);
    }

    #[test]
    fn of_a_million_calls_at_any_pace_few_records_wait_at_a_time() {
        // The latest record is two hours and a half behind its call's start: more calls make it no worse.
        for (spacing_ms, records, most) in [(1000, 200_000, 4000), (1, 100_000, WINDOW + 100)] {
            let mut traffic = Traffic::new(Plan { spacing_ms, ..plan(1_000_000, true) });
            for _ in 0..records {
                assert!(traffic.next().is_some());
                assert!(traffic.waiting.len() <= most, "{}", traffic.waiting.len());
                assert!(traffic.callers.len() as u64 <= CALLERS);
            }
        }
    }
}

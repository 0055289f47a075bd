//! The events of a call, in order.

use serde_json::json;

use super::people::{country, number};
use super::words::{ERRORS, LANGUAGES, OUTAGE, VOICES};
use super::{CALLERS, Caller, ClonedVoice, DAY_MS, Traffic};
use crate::record::{Outgoing, Topic};

impl Traffic {
    /// Simulates a call: a greeting, during which the voice is cloned unless that of an earlier call is still valid,
    /// and then the agent's call, which uses the voice.
    pub(super) fn call(&mut self) {
        let start = self.next_call;
        self.next_call = match &mut self.rhythm {
            Some(rhythm) => rhythm.next_start(),
            None => start + self.dice.range(0, 2 * self.scenario.spacing_ms.clamp(1, DAY_MS)),
        };
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
        self.emit(Topic::CallLifecycle, &greeting, start, body);
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
            self.emit(Topic::CloneTransfer, &number, now, body);
        }
        if self.dice.chance(985) {
            let hops = json!([{"to": "greeter", "ms": 12}, {"to": "agent", "ms": self.dice.range(20, 90)}]);
            let body = json!({
                "call_id": greeting, "status": if hung_up { "failed" } else { "completed" },
                "metadata": {"next_call": agent, "hops": hops},
            });
            self.emit(Topic::CallLifecycle, &greeting, now + 150, body);
        }
        if let Some(agent) = agent {
            self.talk(&agent, person, voice, &pbx, now + 200);
        }
    }

    /// Simulates the agent's call.
    fn talk(&mut self, call: &str, person: u64, voice: Option<String>, pbx: &str, start: i64) {
        let number = number(person);
        if self.dice.chance(250) {
            let body = json!({
                "call_id": call, "status": "initiated", "caller_id": number, "cloned_voice_id": voice,
            });
            self.emit(Topic::CallLifecycle, call, start, body);
        }
        let length = self.dice.around(150_000, 0.5).clamp(3000, 900_000);
        let end = start + self.rhythm.as_mut().and_then(|rhythm| rhythm.long_call(start)).unwrap_or(length);
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
        self.emit(Topic::CallLifecycle, call, end, body);
    }

    /// Clones the caller's voice. A failed attempt may be repeated once.
    fn clone_voice(&mut self, number: &str, greeting: &str, now: &mut i64) -> Option<ClonedVoice> {
        let is_bad = self.rhythm.as_ref().is_some_and(|rhythm| rhythm.is_bad(*now));
        let slow = if is_bad { 4 } else { 1 };
        let mut took = self.dice.around(2800, 0.17) * slow;
        let size = 44 + 32 * self.dice.around(7000, 0.1);
        *now += took;
        if self.dice.chance(if is_bad { 450 } else { 45 }) {
            let error = self
                .dice
                .pick(if is_bad { OUTAGE } else { ERRORS })
                .replace("{}", &self.dice.range(2, 30).to_string());
            let body = json!({
                "caller_id": number, "greeting_call_id": greeting, "error_message": error,
                "api_response_time_ms": took, "sample_file_size_bytes": size,
            });
            self.emit(Topic::CloneFailed, number, *now, body);
            if self.dice.chance(400) {
                return None;
            }
            took = self.dice.around(2800, 0.17) * slow;
            *now += 1000 + took;
        }
        let (id, ready) = (self.dice.token("", 20), *now);
        let ttl = if self.dice.chance(500) { self.scenario.ttl_seconds } else { None };
        let body = json!({
            "caller_id": number, "greeting_call_id": greeting, "cloned_voice_id": id,
            "clone_duration_ms": took,
            "api_response_time_ms": self.dice.chance(800).then_some(took - took / 20),
            "sample_file_size_bytes": size, "ttl_seconds": ttl,
            "producer": {"name": "greeter", "version": "2.3.1"},
            "clone_created_at": self.dice.chance(300).then(|| self.dice.time((ready - 60) * 1000)),
        });
        self.emit(Topic::CloneReady, number, ready, body);
        Some(ClonedVoice {
            id,
            ready,
            expires: ready + ttl.map_or(DAY_MS, |seconds| i64::from(seconds) * 1000),
        })
    }

    /// Some callers choose a voice of their own, change it occasionally, and may withdraw it.
    fn mapping(&mut self, caller: &mut Caller, person: u64, number: &str, start: i64) {
        let topic = Topic::CallerVoiceMapping;
        let at = start + self.dice.range(500, 4000);
        match (caller.mapped, self.dice.below(1000)) {
            (true, 0..15) => {
                caller.mapped = false;
                self.emit(topic, number, at, json!({"caller_id": number, "deleted": true}));
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
                self.emit(topic, number, at, body);
            }
            _ => {}
        }
    }

    /// Chooses a caller: few call often, most rarely. The 32 most frequent callers have the same share of the calls as
    /// the next 64, the next 128, and so on up to about twice as many callers as calls.
    fn person(&mut self) -> u64 {
        let doublings = u64::from(65 - self.scenario.calls.leading_zeros()).clamp(8, 14) - 5;
        let rank = 32 << self.dice.below(doublings);
        (self.first_caller + (rank + self.dice.below(rank)) * 7919) % CALLERS
    }

    /// Returns the language and the text of a talk, in which agent and caller take turns.
    fn transcript(&mut self, person: u64) -> (&'static str, String) {
        let languages = country(person).map_or(["en"].as_slice(), |country| country.languages);
        let language = languages.get(person as usize / 7 % languages.len()).copied().unwrap_or_default();
        let mut lines = Vec::new();
        if let Some((_, agent, caller)) = LANGUAGES.iter().find(|(tag, ..)| *tag == language) {
            for turn in 0..self.dice.range(3, 12) {
                let (who, sentences) = if turn % 2 == 0 { ("Agent", agent) } else { ("Caller", caller) };
                // A call opens with the agent's first sentence.
                let choice = if turn == 0 { 1 } else { sentences.len() };
                let sentence = self.dice.pick(sentences.get(..choice).unwrap_or_default());
                let number = self.dice.range(10, 23).to_string();
                lines.push(format!("{who}: {}", sentence.replace("{}", &number)));
            }
        }
        (language, lines.join("\n"))
    }
}

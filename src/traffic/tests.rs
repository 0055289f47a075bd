//! Tests that a seed always gives the same records, and that each record is what it claims to be.

use std::collections::{BTreeSet, HashSet};

use chrono::DateTime;
use serde_json::{Map, Value};

use super::people::number;
use super::*;

fn plan(calls: u64, disorder: bool) -> Scenario {
    Scenario { calls, seed: 7, disorder, start: 1_767_225_600_000, spacing_ms: 2000, ttl_seconds: None }
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

/// A single id over all bytes of all records.
fn fingerprint(scenario: &Scenario) -> String {
    let all = traffic(scenario).fold(uuid::Uuid::nil(), |before, Sent { record, unusable }| {
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
    let other = Scenario { seed: 8, ..plan(100, false) };
    let values =
        |scenario: &Scenario| traffic(scenario).filter_map(|sent| sent.record.value).collect::<HashSet<_>>();
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
        assert!(share.contains(&(count as f64 / sent.len() as f64)), "{topic}: {count} of {}", sent.len());
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
            let there =
                body.get(*name).and_then(Value::as_str).is_some_and(|text| text.chars().count() <= *limit);
            assert!(there || (body.get("deleted").is_some() && *name != "caller_id"), "{name} of {topic}");
        }
    }
}

#[test]
fn without_disorder_everything_is_usable_sent_once_and_soon() {
    let sent = sent(3000, false);
    assert!(sent.iter().all(|sent| sent.unusable.is_none()));
    let values: HashSet<_> = sent.iter().filter_map(|sent| sent.record.value.as_ref()).collect();
    let tombstones = sent.iter().filter(|sent| sent.record.value.is_none()).count();
    // Two deletes of one caller without a time may have equal values.
    assert!(values.len() + tombstones + 3 >= sent.len());
    assert!(lags(&sent).iter().all(|lag| (0..=251_000).contains(lag)));
}

/// Returns the microseconds between each event and its record, for records that state the event's time.
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
    let counts: Vec<usize> = DEFECTS.iter().map(|(reason, _)| count(*reason)).collect();
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
    for (reason, defects) in DEFECTS {
        for (_, raw) in defects.iter().filter(|(field, _)| *field != "RECORD") {
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
        let plan = Scenario { ttl_seconds, ..plan(1000, false) };
        let all: Vec<Value> = traffic(&plan).filter_map(|s| body(&s)?.get("ttl_seconds").cloned()).collect();
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
    // A record is at most two and a half hours later than its call's start, so more calls do not increase the number.
    for (spacing_ms, records, most) in [(1000, 200_000, 4000), (1, 100_000, WINDOW + 100)] {
        let mut traffic = Traffic::new(Scenario { spacing_ms, ..plan(1_000_000, true) }, None);
        for _ in 0..records {
            assert!(traffic.next().is_some());
            assert!(traffic.waiting.len() <= most, "{}", traffic.waiting.len());
            assert!(traffic.callers.len() as u64 <= CALLERS);
        }
    }
}

//! The lag by which an autoscaler decides, as KEDA reads it from the broker.

use std::collections::BTreeMap;
use std::time::Duration;

use super::MINUTES;
use crate::faults::behind_proxy;
use crate::partitions::{Lock, MEMBER};
use crate::support::kafka::Send;
use crate::support::left_out::real_kafka;
use crate::support::proxy::Mode;
use crate::support::scene::{Scene, TOPICS};
use crate::support::wait::{eventually, eventually_eq};

/// The settings of the trigger for a topic in `deploy/kubernetes/keda/scaledobject.yaml`, and of the scaler as a whole.
fn trigger(topic: &str) -> BTreeMap<String, String> {
    let file = include_str!("../../../deploy/kubernetes/keda/scaledobject.yaml");
    let (general, triggers) = file.split_once("  triggers:\n").unwrap();
    let found =
        triggers.split("    - type: kafka\n").find(|text| text.contains(&format!("topic: {topic}\n")));
    let lines = general.lines().chain(found.unwrap().lines());
    let settings = lines.filter_map(|line| line.split_once(": "));
    settings
        .map(|(name, value)| (name.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
        .collect()
}

/// KEDA's Kafka scaler for one topic, with the settings of the manifest: its `getTotalLag` (version 2.21), and from it
/// the number of instances as Kubernetes' autoscaler counts it.
struct Scaler {
    topic: String,
    group: String,
    lag_threshold: i64,
    instances: (i64, i64),
    previous: BTreeMap<i32, i64>,
}

impl Scaler {
    fn new(scene: &Scene, topic: &str) -> Scaler {
        let trigger = trigger(topic);
        for (name, value) in [
            ("offsetResetPolicy", "earliest"),
            ("excludePersistentLag", "true"),
            ("limitToPartitionsWithLag", "true"),
        ] {
            assert_eq!(trigger[name], value, "{name}");
        }
        let number = |name: &str| trigger[name].parse::<i64>().unwrap();
        Scaler {
            topic: scene.topic(topic),
            group: scene.group.clone(),
            lag_threshold: number("lagThreshold"),
            instances: (number("minReplicaCount"), number("maxReplicaCount")),
            previous: BTreeMap::new(),
        }
    }

    /// The lag at this look. Without a committed offset all that the log holds counts; a partition whose offset is that of
    /// the look before does not count (`excludePersistentLag`); and the sum is not above the threshold for each partition
    /// that counts (`limitToPartitionsWithLag`).
    fn look(&mut self, scene: &Scene) -> i64 {
        let committed = scene.kafka.group_offsets(&self.group, &self.topic);
        let (mut sum, mut partitions) = (0, 0);
        for (partition, (low, high)) in scene.kafka.watermarks(&self.topic) {
            let lag = match committed.get(&partition) {
                None => high - low,
                Some(offset) if self.previous.insert(partition, *offset) == Some(*offset) => 0,
                Some(offset) => high - offset,
            };
            sum += lag;
            partitions += i64::from(lag > 0);
        }
        if sum / self.lag_threshold > partitions { partitions * self.lag_threshold } else { sum }
    }

    /// The instances that this lag asks for.
    fn wants(&self, lag: i64) -> i64 {
        ((lag + self.lag_threshold - 1) / self.lag_threshold).clamp(self.instances.0, self.instances.1)
    }
}

/// The time between two looks: longer than the 5 s in which the daemon commits, as KEDA's 30 s are.
const BETWEEN_LOOKS: Duration = Duration::from_secs(7);

#[test]
fn an_autoscaler_reads_the_lag_of_a_slow_instance_none_of_a_stuck_one_and_none_at_the_end() {
    const RECORDS: i64 = 12_000; // more than twice the threshold of 5000
    let scene = Scene::new(real_kafka!(), 4);
    let call = |number: i64| {
        let value = format!(r#"{{"call_id":"call-{number}","status":"initiated"}}"#);
        Send::to(&scene.topic("call.lifecycle")).partition((number % 4) as i32).value(value)
    };
    scene.kafka.send_all((0..RECORDS).map(call));
    let mut scaler = Scaler::new(&scene, "call.lifecycle");
    let behind =
        || -> i64 { scene.kafka.group_lag(&scene.group, &scene.topic("call.lifecycle")).into_values().sum() };

    // Nothing is committed yet.
    let lag = scaler.look(&scene);
    assert_eq!((lag, scaler.wants(lag)), (RECORDS, 3));

    let (proxy, url) = behind_proxy(&scene.database);
    proxy.set(Mode::Delay(Duration::from_millis(50)));
    let slow = [("DATABASE_URL", url.as_str()), ("BATCH_MAX_RECORDS", "10")];
    let mut daemon = scene.daemon(&[&MEMBER[..], &slow].concat());
    daemon.wait_ready(MINUTES);
    // The first look at a committed offset counts it all; the ones after it count what moves.
    scaler.look(&scene);
    eventually(MINUTES, "lag of partitions whose offsets move", || {
        std::thread::sleep(BETWEEN_LOOKS);
        let lag = scaler.look(&scene);
        if (1..RECORDS).contains(&lag) { Ok(()) } else { Err(lag) }
    });

    // The database takes nothing of the topic: another instance would not help.
    let lock = Lock::of(&scene.database, "call_log");
    eventually(MINUTES, "no lag that counts", || {
        std::thread::sleep(BETWEEN_LOOKS);
        let lag = scaler.look(&scene);
        if lag == 0 { Ok(()) } else { Err(lag) }
    });
    assert!(behind() > 0, "nothing waits");

    drop(lock);
    proxy.set(Mode::Pass);
    scene.wait_until_consumed(MINUTES);
    eventually_eq(MINUTES, "Kafka's lag of the group", 0, behind);
    for topic in TOPICS {
        let lag = Scaler::new(&scene, topic).look(&scene);
        assert_eq!((lag, scaler.wants(lag)), (0, 1), "{topic}");
    }
    assert_eq!(scene.kafka.group_members(&scene.group), 1);
}

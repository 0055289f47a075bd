//! One, two and four instances on three brokers whose leaders move.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use voiceclone_events::traffic::{Scenario, traffic};

use super::MINUTES;
use crate::partitions::{MEMBER, cluster};
use crate::support::cluster::{Broker, FIRST};
use crate::support::daemon::Daemon;
use crate::support::left_out::or_left_out;
use crate::support::scene::{Scene, TOPICS};
use crate::support::wait::{eventually, eventually_eq};

/// Sends the traffic of some calls, with late, doubled and unusable records; another seed sends others.
fn send_traffic(scene: &Scene, seed: u64) {
    let start = chrono::Utc::now().timestamp_millis() - 3_600_000;
    let plan = Scenario { calls: 40, seed, disorder: true, start, spacing_ms: 100, ttl_seconds: None };
    scene.send(traffic(&plan).map(|sent| sent.record));
}

/// Ends the traffic, also if a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does something while traffic is sent.
fn during_traffic(scene: &Scene, seed: u64, act: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for more in 0.. {
                send_traffic(scene, seed * 1000 + more);
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let _over = Over(&over);
        act();
    });
}

/// The brokers that lead a partition of the topics that are read.
fn leaders(scene: &Scene, partitions: i32) -> BTreeSet<i32> {
    let of = |topic: &&str| {
        let topic = scene.topic(topic);
        (0..partitions).filter_map(|partition| scene.kafka.leader(&topic, partition)).collect::<Vec<_>>()
    };
    TOPICS.iter().flat_map(of).collect()
}

/// Waits until every partition has this many replicas with all of its records.
fn wait_until_in_sync(scene: &Scene, partitions: i32, replicas: usize) {
    for topic in TOPICS.map(|topic| scene.topic(topic)) {
        for partition in 0..partitions {
            eventually(MINUTES, &format!("{topic}/{partition} to have its replicas"), || {
                std::thread::sleep(Duration::from_millis(100));
                let in_sync = scene.kafka.in_sync(&topic, partition);
                if in_sync.len() == replicas { Ok(()) } else { Err(in_sync) }
            });
        }
    }
}

/// Ends a broker while traffic is sent, and starts it again: all that it led has another leader then.
fn move_leaders(scene: &Scene, partitions: i32, seed: u64, broker: &mut Broker, end: fn(&mut Broker)) {
    assert!(leaders(scene, partitions).contains(&broker.id), "broker {} leads nothing", broker.id);
    during_traffic(scene, seed, || {
        end(broker);
        eventually(MINUTES, "the other brokers to lead", || {
            std::thread::sleep(Duration::from_millis(100));
            let leaders = leaders(scene, partitions);
            if leaders.contains(&broker.id) { Err(leaders) } else { Ok(()) }
        });
    });
    broker.process.start_again();
    wait_until_in_sync(scene, partitions, 2);
}

/// Waits until each instance has partitions of its own.
fn wait_until_shared(scene: &Scene, daemons: &mut [Daemon]) {
    daemons.iter_mut().for_each(|daemon| daemon.wait_ready(MINUTES));
    eventually_eq(MINUTES, "the members of the group", daemons.len(), || {
        scene.kafka.group_members(&scene.group)
    });
    for daemon in daemons {
        eventually(MINUTES, "an instance to have partitions", || {
            let (_, metrics) = daemon.http_get("/metrics");
            let own = metrics.lines().filter(|line| line.starts_with("voiceclone_partitions_assigned{"));
            let own: f64 = own.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
            if own > 0.0 { Ok(()) } else { Err(own) }
        });
    }
}

#[test]
fn the_tables_are_right_with_one_two_and_four_instances_while_the_leaders_of_three_brokers_move() {
    const PARTITIONS: i32 = 6;
    let cluster = or_left_out!(cluster());
    let [mut second, mut third] = [cluster.another_broker(), cluster.another_broker()];
    let (two, three) = (second.id, third.id);
    // The second and the third broker are never away at once, and no partition has its replicas on these two alone but
    // for those whose leader moves from one to the other.
    let places = [[two, three], [three, two], [two, FIRST], [three, FIRST], [FIRST, two], [FIRST, three]];
    let scene = Scene::placed(cluster, |_| places.iter().map(|brokers| brokers.to_vec()).collect());
    wait_until_in_sync(&scene, PARTITIONS, 2);
    assert_eq!(leaders(&scene, PARTITIONS), BTreeSet::from([FIRST, two, three]));

    let mut daemons = Vec::new();
    for (seed, count) in [(1, 1), (2, 2), (3, 4)] {
        while daemons.len() < count {
            daemons.push(scene.daemon(&MEMBER));
        }
        wait_until_shared(&scene, &mut daemons);
        let (broker, end): (_, fn(&mut Broker)) = match seed {
            1 => (&mut second, |broker| broker.process.stop()),
            2 => (&mut third, |broker| broker.process.kill()),
            _ => (&mut second, |broker| broker.process.kill()),
        };
        move_leaders(&scene, PARTITIONS, seed, broker, end);
        scene.assert_as_the_model_says(MINUTES);
        wait_until_shared(&scene, &mut daemons);
    }
}

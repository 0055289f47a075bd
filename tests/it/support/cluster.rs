//! Several Kafka brokers in one cluster: a first one that is also the controller and is never stopped, and further ones
//! that a test stops, kills or halts.

use std::ops::Deref;
use std::sync::atomic::{AtomicI32, Ordering};

use super::kafka::{Kafka, PrivateKafka};
use super::processes::free_port;
use super::wait::{SOON, eventually};

/// The node id of the first broker.
pub const FIRST: i32 = 1;

/// A cluster of the first broker and of those that [`Cluster::another_broker`] starts; through [`Deref`] a client of it.
/// Topics are created with [`Kafka::create_topic_on`], so that each test decides what its own broker leads.
pub struct Cluster {
    first: PrivateKafka,
    controller: String,
    next: AtomicI32,
}

impl Deref for Cluster {
    type Target = Kafka;

    fn deref(&self) -> &Kafka {
        &self.first
    }
}

/// One of the further brokers.
pub struct Broker {
    /// Its node id.
    pub id: i32,
    /// Its process.
    pub process: PrivateKafka,
}

impl Cluster {
    /// Starts the first broker. The error says what is missing for it on this machine.
    pub fn start() -> Result<Cluster, String> {
        let controller = format!("127.0.0.1:{}", free_port());
        let listeners = format!("PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://{controller}");
        let first = PrivateKafka::start(&[
            ("node.id", &FIRST.to_string()),
            ("controller.quorum.voters", &format!("{FIRST}@{controller}")),
            ("listeners", &listeners),
        ])?;
        // The groups' offsets stay on the broker that is never stopped.
        first.create_topic_on("__consumer_offsets", &[&[FIRST]], &[("cleanup.policy", "compact")]);
        Ok(Cluster { first, controller, next: AtomicI32::new(FIRST + 1) })
    }

    /// Starts a further broker, which joins the cluster.
    pub fn another_broker(&self) -> Broker {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let process = PrivateKafka::start(&[
            ("process.roles", "broker"),
            ("node.id", &id.to_string()),
            ("controller.quorum.voters", &format!("{FIRST}@{}", self.controller)),
            ("listeners", "PLAINTEXT://127.0.0.1:{port}"),
        ])
        .unwrap();
        eventually(SOON, &format!("broker {id} to be in the cluster"), || {
            let brokers = self.brokers();
            if brokers.contains(&id) { Ok(()) } else { Err(brokers) }
        });
        Broker { id, process }
    }

    /// Waits until nobody leads this partition.
    pub fn wait_until_leaderless(&self, topic: &str, partition: i32) {
        eventually(SOON, &format!("{topic} partition {partition} to be without a leader"), || {
            match self.leader(topic, partition) {
                None => Ok(()),
                leader => Err(leader),
            }
        });
    }
}

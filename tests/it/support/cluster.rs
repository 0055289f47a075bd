//! Several Kafka brokers in one cluster: the first is also the controller and is never stopped; a test stops, kills or
//! halts the others.

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
    /// The first broker.
    pub first: PrivateKafka,
    controller: String,
    next: AtomicI32,
}

impl Deref for Cluster {
    type Target = Kafka;

    fn deref(&self) -> &Kafka {
        &self.first
    }
}

/// One of the other brokers.
pub struct Broker {
    /// The node id.
    pub id: i32,
    /// The process.
    pub process: PrivateKafka,
}

impl Cluster {
    /// Starts the first broker, with settings in addition to those of all brokers; `{quorum}` in them is replaced by the
    /// controller's address. The error says what is missing on this machine.
    pub fn start(settings: &[(&str, &str)]) -> Result<Cluster, String> {
        let controller = format!("127.0.0.1:{}", free_port());
        let listeners = format!("PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://{controller}");
        let quorum = format!("{FIRST}@{controller}");
        let ours = [
            ("node.id", "1"),
            ("controller.quorum.voters", quorum.as_str()),
            ("listeners", listeners.as_str()),
        ];
        let settings = ours.iter().chain(settings);
        let settings: Vec<_> =
            settings.map(|(name, value)| (*name, value.replace("{quorum}", &controller))).collect();
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let first = PrivateKafka::start(&settings)?;
        // The groups' offsets stay on the broker that is never stopped.
        first.create_topic_on("__consumer_offsets", &[&[FIRST]], &[("cleanup.policy", "compact")]);
        Ok(Cluster { first, controller, next: AtomicI32::new(FIRST + 1) })
    }

    /// Starts another broker, which joins the cluster.
    pub fn another_broker(&self) -> Broker {
        self.another_broker_with(&[])
    }

    /// Starts another broker with settings of its own.
    pub fn another_broker_with(&self, settings: &[(&str, &str)]) -> Broker {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (node, quorum) = (id.to_string(), format!("{FIRST}@{}", self.controller));
        let ours = [
            ("process.roles", "broker"),
            ("node.id", &node),
            ("controller.quorum.voters", &quorum),
            ("listeners", "PLAINTEXT://127.0.0.1:{port}"),
        ];
        let process = PrivateKafka::start(&[&ours, settings].concat()).unwrap();
        eventually(SOON, &format!("broker {id} to be in the cluster"), || {
            let brokers = self.brokers();
            if brokers.contains(&id) { Ok(()) } else { Err(brokers) }
        });
        Broker { id, process }
    }

    /// Waits until this partition has no leader.
    pub fn wait_until_leaderless(&self, topic: &str, partition: i32) {
        eventually(SOON, &format!("{topic} partition {partition} to be without a leader"), || {
            match self.leader(topic, partition) {
                None => Ok(()),
                leader => Err(leader),
            }
        });
    }
}

//! A broker inside this process: librdkafka's mock cluster. It keeps records in memory, and of each partition only
//! the last five megabytes; it ends with its value.

use anyhow::Context;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// A broker that lives as long as this value.
pub struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Broker {
    /// Starts one on a free port of this machine, with these topics of so many partitions.
    pub fn start(topics: &[String], partitions: i32) -> anyhow::Result<Broker> {
        let cluster = MockCluster::new(1).context("the embedded broker could not be started")?;
        for topic in topics {
            cluster
                .create_topic(topic, partitions, 1)
                .with_context(|| format!("the embedded broker did not make the topic {topic}"))?;
        }
        Ok(Broker { cluster })
    }

    /// What `KAFKA_BOOTSTRAP_SERVERS` has to be to reach it.
    pub fn servers(&self) -> String {
        self.cluster.bootstrap_servers()
    }
}

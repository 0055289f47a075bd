//! A broker inside this process: librdkafka's mock cluster. It keeps records in memory, and only the last five
//! megabytes of each partition.

use anyhow::Context;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

/// An embedded broker. It stops when the value is dropped.
pub struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Broker {
    /// Starts a broker on a free local port, with these topics of `partitions` partitions each.
    pub fn start(topics: &[String], partitions: i32) -> anyhow::Result<Broker> {
        let cluster = MockCluster::new(1).context("the embedded broker could not be started")?;
        for topic in topics {
            cluster
                .create_topic(topic, partitions, 1)
                .with_context(|| format!("the embedded broker did not create the topic {topic}"))?;
        }
        Ok(Broker { cluster })
    }

    /// Returns the value of `KAFKA_BOOTSTRAP_SERVERS` that reaches it.
    pub fn servers(&self) -> String {
        self.cluster.bootstrap_servers()
    }
}

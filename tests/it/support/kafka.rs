//! A real Apache Kafka, with broker and controller in one process, started from the jars in `tests/kafka/lib`; and a
//! client for tests. The client works with any broker; with `rdkafka::mocking::MockCluster` it cannot create, delete or
//! truncate topics.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::processes::{Process, Signal, command, find_program, folder, free_port};
use super::wait::{SOON, eventually};
use super::{block_on, unique};

/// Larger than any record that the daemon accepts, so that tests can send one that is too large.
const MAX_BYTES: &str = "16777216";

/// Maximum time for a call to a broker.
const CALL: Duration = Duration::from_secs(30);

/// Maximum time for a call that changes something; then it is retried.
const CHANGE: Duration = Duration::from_secs(10);

/// The broker for the whole run: the one named in `KAFKA_BOOTSTRAP_SERVERS`, else one that is started at the first
/// call. All tests share it, so each keeps to topics and groups of its own ([`unique`]). The error says why there is
/// none. Tests call it through `real_kafka!()`.
pub fn shared() -> Result<&'static Kafka, &'static str> {
    static SHARED: OnceLock<Result<(Kafka, Option<PrivateKafka>), String>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| match std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
        Ok(servers) if !servers.is_empty() => Ok((Kafka::at(&servers), None)),
        _ => PrivateKafka::start(&[]).map(|broker| (Kafka::at(&broker.servers), Some(broker))),
    });
    shared.as_ref().map(|(kafka, _)| kafka).map_err(String::as_str)
}

/// A record to be sent. Only the topic is needed: `Send::to("calls").key("+1555").value("{}")`.
#[derive(Clone, Debug, Default)]
pub struct Send {
    topic: String,
    partition: Option<i32>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    timestamp: Option<i64>,
}

impl Send {
    /// A record for this topic: no key, no value, no headers, the time of sending, and a partition chosen by the key.
    pub fn to(topic: &str) -> Send {
        Send { topic: topic.into(), ..Send::default() }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Sets the partition.
    pub fn partition(self, partition: i32) -> Send {
        Send { partition: Some(partition), ..self }
    }

    /// Sets the key.
    pub fn key(self, key: impl Into<Vec<u8>>) -> Send {
        Send { key: Some(key.into()), ..self }
    }

    /// Sets the value.
    pub fn value(self, value: impl Into<Vec<u8>>) -> Send {
        Send { value: Some(value.into()), ..self }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Send {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// Adds a header without a value.
    pub fn null_header(mut self, name: &str) -> Send {
        self.headers.push((name.into(), None));
        self
    }

    /// Sets the timestamp, in milliseconds since 1970.
    pub fn timestamp(self, millis: i64) -> Send {
        Send { timestamp: Some(millis), ..self }
    }
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// In milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// Names and values, in the order in which they were sent.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// The value of the last header of this name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rfind(|(given, _)| given == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transaction {
    /// Committed: the records are visible.
    Commit,
    /// Aborted: the records take up offsets, but are not visible.
    Abort,
}

/// A client of a broker.
pub struct Kafka {
    /// `KAFKA_BOOTSTRAP_SERVERS` for the daemon.
    pub servers: String,
    admin: Mutex<Option<Admin>>,
    producer: Mutex<Option<FutureProducer>>,
}

type Admin = Arc<AdminClient<DefaultClientContext>>;

impl Kafka {
    /// A client of the broker at this address.
    pub fn at(servers: &str) -> Kafka {
        Kafka { servers: servers.into(), admin: Mutex::default(), producer: Mutex::default() }
    }

    /// The settings that any client of this broker starts from.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers).set("reconnect.backoff.max.ms", "500");
        config
    }

    /// Creates a topic and waits until it can be used. `configs` are settings of the topic, `cleanup.policy` for one.
    pub fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        self.create(NewTopic::new(name, partitions, TopicReplication::Fixed(1)), partitions, configs);
    }

    /// Creates a topic with the partitions on these brokers; the first of each is the preferred leader.
    pub fn create_topic_on<'a>(
        &self,
        name: &'a str,
        brokers: &'a [&'a [i32]],
        configs: &[(&'a str, &'a str)],
    ) {
        let partitions = i32::try_from(brokers.len()).unwrap();
        self.create(
            NewTopic::new(name, partitions, TopicReplication::Variable(brokers)),
            partitions,
            configs,
        );
    }

    fn create<'a>(&self, mut topic: NewTopic<'a>, partitions: i32, configs: &[(&'a str, &'a str)]) {
        let name = topic.name;
        for (setting, value) in configs {
            topic = topic.set(setting, value);
        }
        self.change(RDKafkaErrorCode::TopicAlreadyExists, |admin| {
            block_on(admin.create_topics([&topic], &options()))
        });
        eventually(SOON, &format!("topic {name}"), || {
            let seen = self.ask(|client| client.fetch_metadata(Some(name), CALL));
            let seen = seen.map_err(|error| error.to_string())?;
            let led =
                seen.topics()[0].partitions().iter().filter(|partition| partition.leader() >= 0).count();
            if led == partitions as usize { Ok(()) } else { Err(format!("{led} partitions with a leader")) }
        });
    }

    /// Adds partitions to a topic, up to this number.
    pub fn add_partitions(&self, name: &str, partitions: i32) {
        let to = NewPartitions::new(name, partitions as usize);
        self.change(RDKafkaErrorCode::InvalidPartitions, |admin| {
            block_on(admin.create_partitions([&to], &options()))
        });
    }

    /// The broker that leads a partition, if any does.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        let seen = self.ask(|client| client.fetch_metadata(Some(topic), CALL)).unwrap();
        let partitions = seen.topics()[0].partitions();
        let found = partitions.iter().find(|found| found.id() == partition)?;
        Some(found.leader()).filter(|leader| *leader >= 0)
    }

    /// The brokers with a replica of a partition that has all of its records.
    pub fn in_sync(&self, topic: &str, partition: i32) -> BTreeSet<i32> {
        let seen = self.ask(|client| client.fetch_metadata(Some(topic), CALL)).unwrap();
        let found = seen.topics()[0].partitions().iter().find(|found| found.id() == partition);
        found.map(|found| found.isr().iter().copied().collect()).unwrap_or_default()
    }

    /// The node ids of the running brokers.
    pub fn brokers(&self) -> Vec<i32> {
        let seen = self.ask(|client| client.fetch_metadata(None, CALL)).unwrap();
        seen.brokers().iter().map(|broker| broker.id()).collect()
    }

    /// The names of all topics.
    pub fn topics(&self) -> Vec<String> {
        let seen = self.ask(|client| client.fetch_metadata(None, CALL)).unwrap();
        seen.topics().iter().map(|topic| topic.name().to_owned()).collect()
    }

    /// Deletes a topic and waits until it is gone. (One that is created again under the same name begins at offset 0.)
    pub fn delete_topic(&self, name: &str) {
        self.change(RDKafkaErrorCode::UnknownTopicOrPartition, |admin| {
            block_on(admin.delete_topics(&[name], &options()))
        });
        eventually(SOON, &format!("the end of topic {name}"), || {
            let seen = self.ask(|client| client.fetch_metadata(None, CALL));
            let seen = seen.map_err(|error| error.to_string())?;
            if seen.topics().iter().any(|topic| topic.name() == name) {
                Err("still there".to_string())
            } else {
                Ok(())
            }
        });
    }

    /// Gives a topic these settings, and the defaults of all others.
    pub fn set_topic_settings(&self, name: &str, configs: &[(&str, &str)]) {
        let mut wanted = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (setting, value) in configs {
            wanted = wanted.set(setting, value);
        }
        self.change(RDKafkaErrorCode::NoError, |admin| {
            let changed = block_on(admin.alter_configs([&wanted], &options()))?;
            changed
                .into_iter()
                .try_for_each(|result| result.map(drop).map_err(|(_, code)| KafkaError::AdminOp(code)))?;
            Ok(Vec::new())
        });
    }

    /// Deletes the records of a partition before this offset, as retention does.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let list = offsets(topic, [(partition, Offset::Offset(before))]);
        self.change(RDKafkaErrorCode::NoError, |admin| {
            let deleted = block_on(admin.delete_records(&list, &options()))?;
            deleted.elements().iter().try_for_each(|element| element.error())?;
            Ok(Vec::new())
        });
    }

    /// Sends one record, and returns its partition and offset once the broker has it.
    pub fn send(&self, record: Send) -> (i32, i64) {
        self.send_all([record])[0]
    }

    /// Sends records, in this order, and returns each one's partition and offset once the broker has them all.
    pub fn send_all(&self, records: impl IntoIterator<Item = Send>) -> Vec<(i32, i64)> {
        let records: Vec<Send> = records.into_iter().collect();
        let new = || self.producer_config().create().unwrap();
        let producer = self.producer.lock().unwrap().get_or_insert_with(new).clone();
        send_all(&producer, &records).unwrap_or_else(|_| {
            let producer = self.producer.lock().unwrap().insert(new()).clone();
            send_all(&producer, &records).unwrap()
        })
    }

    /// Sends records in one transaction, which is then committed or aborted.
    pub fn send_in_transaction(
        &self,
        end: Transaction,
        records: impl IntoIterator<Item = Send>,
    ) -> Vec<(i32, i64)> {
        let mut config = self.producer_config();
        let producer: FutureProducer =
            config.set("transactional.id", unique("transaction")).create().unwrap();
        producer.init_transactions(CALL).unwrap();
        producer.begin_transaction().unwrap();
        let sent = send_all(&producer, &records.into_iter().collect::<Vec<_>>()).unwrap();
        match end {
            Transaction::Commit => producer.commit_transaction(CALL).unwrap(),
            Transaction::Abort => producer.abort_transaction(CALL).unwrap(),
        }
        sent
    }

    /// Sends records of one partition in one batch, compressed with zstd, however large it is before that.
    pub fn send_in_one_batch(&self, records: impl IntoIterator<Item = Send>) -> Vec<(i32, i64)> {
        let mut config = self.config();
        config.set("compression.type", "zstd").set("message.max.bytes", "1000000000");
        // The batch is sent after this time, which is more than gathering it takes.
        config.set("batch.size", "1000000000").set("linger.ms", "3000").set("message.timeout.ms", "60000");
        let producer: FutureProducer = config.create().unwrap();
        send_all(&producer, &records.into_iter().collect::<Vec<_>>()).unwrap()
    }

    /// All records that a topic holds, by partition and offset, but for those of transactions not committed.
    pub fn read_all(&self, topic: &str) -> Vec<Record> {
        self.read(topic, "read_committed")
    }

    /// All records that a topic holds, by partition and offset, those of transactions not committed too.
    pub fn read_all_uncommitted(&self, topic: &str) -> Vec<Record> {
        self.read(topic, "read_uncommitted")
    }

    fn read(&self, topic: &str, isolation: &str) -> Vec<Record> {
        let consumer = self.consumer(&[
            ("isolation.level", isolation),
            ("enable.partition.eof", "true"),
            ("fetch.wait.max.ms", "10"),
            ("fetch.message.max.bytes", MAX_BYTES),
            // also the maximum size of an uncompressed batch
            ("receive.message.max.bytes", "1000000000"),
        ]);
        let mut ahead = self.partitions(topic);
        consumer
            .assign(&offsets(topic, ahead.iter().map(|partition| (*partition, Offset::Beginning))))
            .unwrap();
        let mut records = Vec::new();
        while !ahead.is_empty() {
            match consumer.poll(CALL) {
                Some(Ok(message)) => records.push(Record {
                    topic: message.topic().into(),
                    partition: message.partition(),
                    offset: message.offset(),
                    timestamp: message.timestamp().to_millis(),
                    key: message.key().map(Vec::from),
                    value: message.payload().map(Vec::from),
                    headers: message.headers().map_or_else(Vec::new, |headers| {
                        headers
                            .iter()
                            .map(|header| (header.key.into(), header.value.map(Vec::from)))
                            .collect()
                    }),
                }),
                Some(Err(KafkaError::PartitionEOF(partition))) => ahead.retain(|other| *other != partition),
                // The client reconnects.
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
                ))) => {}
                Some(Err(error)) => panic!("reading {topic}: {error}"),
                None => panic!("reading {topic}: nothing came for {CALL:?}"),
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    /// The first offset of each partition of a topic that is still there, and the one after the last.
    pub fn watermarks(&self, topic: &str) -> BTreeMap<i32, (i64, i64)> {
        let marks = |partition| (partition, self.partition_watermarks(topic, partition));
        self.partitions(topic).into_iter().map(marks).collect()
    }

    /// The first offset of one partition, and the one after the last; others may have no leader.
    pub fn partition_watermarks(&self, topic: &str, partition: i32) -> (i64, i64) {
        // A broker that has just been started may not lead its partitions yet.
        let look = || self.ask(|client| client.fetch_watermarks(topic, partition, CALL));
        eventually(SOON, "the first and the last offset", look)
    }

    /// The offsets that a group has committed for a topic, by partition; those without one are left out.
    pub fn group_offsets(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let consumer = self.consumer(&[("group.id", group)]);
        let asked =
            offsets(topic, self.partitions(topic).into_iter().map(|partition| (partition, Offset::Invalid)));
        let committed = consumer.committed_offsets(asked, CALL).unwrap();
        let known =
            committed.elements().into_iter().filter_map(|of| Some((of.partition(), of.offset().to_raw()?)));
        known.filter(|(_, offset)| *offset >= 0).collect()
    }

    /// How many records a group has not read, by partition, as Kafka's own tools count them: from the committed offset,
    /// else from the first one, to the end.
    pub fn group_lag(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let committed = self.group_offsets(group, topic);
        let lag = |(partition, (low, high)): (i32, (i64, i64))| {
            (partition, high - committed.get(&partition).copied().unwrap_or(low))
        };
        self.watermarks(topic).into_iter().map(lag).collect()
    }

    /// Commits offsets for a group that has no members, as an operator's reset does.
    pub fn set_group_offsets(&self, group: &str, topic: &str, to: impl IntoIterator<Item = (i32, i64)>) {
        let consumer = self.consumer(&[("group.id", group)]);
        let to =
            offsets(topic, to.into_iter().map(|(partition, offset)| (partition, Offset::Offset(offset))));
        // A broker that has just been started may not coordinate the group yet.
        eventually(SOON, "the commit of the group's offsets", || consumer.commit(&to, CommitMode::Sync));
    }

    /// Deletes a group that has no members, with its offsets.
    pub fn delete_group(&self, group: &str) {
        self.change(RDKafkaErrorCode::GroupIdNotFound, |admin| {
            block_on(admin.delete_groups(&[group], &options()))
        });
    }

    /// How many members a group has.
    pub fn group_members(&self, group: &str) -> usize {
        let groups = self.ask(|client| client.fetch_group_list(Some(group), CALL)).unwrap();
        groups.groups().iter().map(|group| group.members().len()).sum()
    }

    fn consumer(&self, settings: &[(&str, &str)]) -> BaseConsumer {
        let mut config = self.config();
        config.set("group.id", "unused").set("enable.auto.commit", "false");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        config.create().unwrap()
    }

    fn producer_config(&self) -> ClientConfig {
        let mut config = self.config();
        config.set("message.max.bytes", MAX_BYTES).set("enable.idempotence", "true").set("linger.ms", "1");
        config.set("queue.buffering.max.kbytes", "262144").set("message.timeout.ms", "60000");
        config
    }

    fn admin(&self) -> Admin {
        self.admin.lock().unwrap().get_or_insert_with(|| self.new_admin()).clone()
    }

    fn another_admin(&self) -> Admin {
        self.admin.lock().unwrap().insert(self.new_admin()).clone()
    }

    fn new_admin(&self) -> Admin {
        Arc::new(self.config().create().unwrap())
    }

    /// Asks, and retries with a new client, which is kept: a client that receives metadata without brokers, which they send
    /// for a moment after an outage, may never find them again (librdkafka 2.12).
    fn ask<T>(
        &self,
        ask: impl Fn(&Client<DefaultClientContext>) -> Result<T, KafkaError>,
    ) -> Result<T, KafkaError> {
        ask(self.admin().inner()).or_else(|_| ask(self.another_admin().inner()))
    }

    /// Requests a change likewise. `done` is the error of a broker on which the change is already made, as after an attempt
    /// whose answer was lost.
    fn change(
        &self,
        done: RDKafkaErrorCode,
        change: impl Fn(&AdminClient<DefaultClientContext>) -> Result<Vec<Changed>, KafkaError>,
    ) {
        let change = |admin: &AdminClient<_>| -> Result<(), KafkaError> {
            let failed = change(admin)?.into_iter().filter_map(Result::err).find(|(_, code)| *code != done);
            failed.map_or(Ok(()), |(_, code)| Err(KafkaError::AdminOp(code)))
        };
        change(&self.admin()).or_else(|_| change(&self.another_admin())).unwrap();
    }

    fn partitions(&self, topic: &str) -> Vec<i32> {
        let seen = self.ask(|client| client.fetch_metadata(Some(topic), CALL)).unwrap();
        let found = &seen.topics()[0];
        assert!(found.error().is_none(), "topic {topic}: {:?}", found.error().map(RDKafkaErrorCode::from));
        found.partitions().iter().map(|partition| partition.id()).collect()
    }
}

/// The result of changing one topic or group.
type Changed = Result<String, (String, RDKafkaErrorCode)>;

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(CHANGE)).request_timeout(Some(CHANGE))
}

fn offsets(topic: &str, of: impl IntoIterator<Item = (i32, Offset)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in of {
        list.add_partition_offset(topic, partition, offset).unwrap();
    }
    list
}

fn send_all(producer: &FutureProducer, records: &[Send]) -> Result<Vec<(i32, i64)>, KafkaError> {
    let mut under_way = std::collections::VecDeque::new();
    let mut sent = Vec::new();
    for record in records {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: value.as_ref() });
        }
        let mut next = FutureRecord::<Vec<u8>, Vec<u8>>::to(&record.topic).headers(headers);
        next.partition = record.partition;
        next.key = record.key.as_ref();
        next.payload = record.value.as_ref();
        next.timestamp = record.timestamp;
        loop {
            match producer.send_result(next) {
                Ok(delivery) => break under_way.push_back(delivery),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again))
                    if !under_way.is_empty() =>
                {
                    sent.push(block_on(under_way.pop_front().unwrap()));
                    next = again;
                }
                // as after a topic was deleted and created again: another producer finds it
                Err((error, _)) => return Err(error),
            }
        }
    }
    sent.extend(block_on(async {
        let mut rest = Vec::new();
        for delivery in under_way {
            rest.push(delivery.await);
        }
        rest
    }));
    sent.into_iter()
        .map(|delivery| match delivery.unwrap() {
            Ok(delivery) => Ok((delivery.partition, delivery.offset)),
            Err((error, _)) => Err(error),
        })
        .collect()
}

/// A broker of one test's own, which it may stop, kill and start again; through [`Deref`] a client of it, too.
pub struct PrivateKafka {
    kafka: Kafka,
    folder: PathBuf,
    java: PathBuf,
    process: Option<Process>,
}

impl Deref for PrivateKafka {
    type Target = Kafka;

    fn deref(&self) -> &Kafka {
        &self.kafka
    }
}

impl PrivateKafka {
    /// Starts a broker, with settings in addition to those of all brokers; `{port}` and `{controller}` in them are
    /// replaced by its ports. The error says what is missing on this machine. Tests call it through `private_kafka!()`.
    pub fn start(settings: &[(&str, &str)]) -> Result<PrivateKafka, String> {
        Self::start_with_users(settings, &[])
    }

    /// Starts a broker with users that log in with SCRAM-SHA-512: name and password.
    pub fn start_with_users(
        settings: &[(&str, &str)],
        users: &[(&str, &str)],
    ) -> Result<PrivateKafka, String> {
        let java = find_java()?;
        let folder = folder("kafka");
        let (port, controller) = (free_port(), free_port());
        let mut properties = format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
message.max.bytes={MAX_BYTES}
replica.fetch.max.bytes={MAX_BYTES}
# records may carry any timestamp, and stay
log.message.timestamp.before.max.ms=9223372036854775807
log.message.timestamp.after.max.ms=9223372036854775807
log.retention.ms=-1
log.retention.bytes=-1
# one broker is enough
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# groups form, and lose a member, without delay
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
# killed, it is taken back after 3 s, not 9
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# deleted topics and segments go at once
log.segment.delete.delay.ms=1000
",
            data = folder.join("data").display()
        );
        for (name, value) in settings {
            let value = value.replace("{port}", &port.to_string());
            let value = value.replace("{controller}", &controller.to_string());
            properties.push_str(&format!("{name}={value}\n"));
        }
        std::fs::write(folder.join("server.properties"), properties).unwrap();
        let kafka = Kafka::at(&format!("127.0.0.1:{port}"));
        let mut broker = PrivateKafka { kafka, folder, java, process: None };
        let users: Vec<String> = users
            .iter()
            .map(|(name, password)| format!("SCRAM-SHA-512=[name={name},password={password}]"))
            .collect();
        let mut words = vec!["format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ"];
        users.iter().for_each(|user| words.extend(["--add-scram", user]));
        words.push("-c");
        let mut format = broker.run("kafka.tools.StorageTool", &words);
        assert!(format.wait(SOON * 2).success(), "the storage was not formatted:\n{}", broker.log());
        broker.start_again();
        Ok(broker)
    }

    /// Starts it again, on the same port and with the same data, and waits until it answers.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "the broker is running");
        self.process = Some(self.run("kafka.Kafka", &[]));
        eventually(SOON * 4, "the broker's answer", || {
            let status = self.process.as_mut().unwrap().status();
            assert!(status.is_none(), "the broker ended with {}:\n{}", status.unwrap(), self.log());
            let answer = self.admin().inner().fetch_metadata(None, Duration::from_secs(1));
            answer.map(drop).map_err(|error| error.to_string())
        });
    }

    /// Stops it in good order.
    pub fn stop(&mut self) {
        self.end(Signal::Term);
    }

    /// Ends it at once, as a power cut does.
    pub fn kill(&mut self) {
        self.end(Signal::Kill);
    }

    /// Whether it was not stopped; it may be halted.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The process id.
    pub fn process_id(&self) -> u32 {
        self.process.as_ref().expect("the broker is not running").id()
    }

    /// Halts it, so that connections stay open and nothing answers; `Signal::Cont` lets it go on.
    pub fn signal(&mut self, signal: Signal) {
        self.process.as_mut().expect("the broker is not running").signal(signal);
    }

    fn end(&mut self, signal: Signal) {
        let mut process = self.process.take().expect("the broker is not running");
        process.signal(signal);
        process.wait(SOON * 2);
    }

    /// Runs one of Kafka's own tools to its end, and gives its exit status; what it prints is in the broker's log.
    pub fn run_tool(&self, class: &str, arguments: &[&str]) -> bool {
        let mut java = self.java(class, arguments);
        Process::spawn(&mut java, Signal::Kill).wait(SOON * 4).success()
    }

    fn run(&self, class: &str, arguments: &[&str]) -> Process {
        let mut java = self.java(class, arguments);
        java.arg(self.folder.join("server.properties"));
        Process::spawn(&mut java, Signal::Kill)
    }

    fn java(&self, class: &str, arguments: &[&str]) -> std::process::Command {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut java = command(&self.java);
        // Quick to start and small rather than fast: the serial collector, and only the first compiler.
        java.args(["-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]);
        java.arg("-cp").arg(format!("{}/*", jars().display())).arg(class).args(arguments);
        java.current_dir(&self.folder).stdout(log.try_clone().unwrap()).stderr(log);
        java
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

/// Whether a private broker could be started on this machine; the error says what is missing.
pub fn available() -> Result<(), String> {
    find_java().map(drop)
}

/// Where `make kafka-jars` puts the broker's jars.
fn jars() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/lib"))
}

fn find_java() -> Result<PathBuf, String> {
    let of_home = std::env::var_os("JAVA_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let java = of_home.map(|home| home.join("bin/java")).or_else(|| find_program("java", None));
    let missing = |what: &str| format!("{what}, and KAFKA_BOOTSTRAP_SERVERS names no broker");
    let java =
        java.filter(|java| java.is_file()).ok_or_else(|| missing("no Java 17 or newer is installed"))?;
    let version =
        std::process::Command::new(&java).arg("-version").output().map_err(|error| error.to_string())?;
    let version = String::from_utf8_lossy(&version.stderr).into_owned(); // openjdk version "17.0.15" 2025-04-15
    let major = version.split('"').nth(1).and_then(|number| number.split('.').next()?.parse::<u32>().ok());
    if major.is_none_or(|major| major < 17) {
        return Err(missing(&format!("Java 17 or newer is needed, {} says {version:?}", java.display())));
    }
    if !jars().join(".complete").exists() {
        return Err(missing("the Kafka jars are not there (`make kafka-jars` fetches them)"));
    }
    Ok(java)
}

//! Read-only questions to the brokers: topics, leaders, the group, rights, settings.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::join_all;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataTopic};

use super::operations::{self, Allowed};
use super::quiet::Quiet;
use super::reason::{self, FailureReason, Kind};
use super::{certificate, client_config, consumer_config};
use crate::config::Settings;

/// Timeout of one attempt to reach a broker, after which librdkafka's messages are read.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);

/// Collects librdkafka's messages during an attempt, and logs none of them.
#[derive(Default)]
pub(super) struct CollectedMessages(Mutex<Vec<(RDKafkaErrorCode, String)>>);

impl CollectedMessages {
    fn add(&self, code: RDKafkaErrorCode, text: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((code, text.to_owned()));
    }

    fn missing_right(&self) -> Option<FailureReason> {
        let messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reasons = messages.iter().map(|(code, text)| reason::reason(*code, text));
        reasons.into_iter().find(|reason| reason.kind == Kind::MissingRight)
    }

    /// Returns the reason given by each server, the most specific first.
    fn reasons(&self) -> Vec<(Option<String>, FailureReason)> {
        let messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut by_server: BTreeMap<Option<String>, FailureReason> = BTreeMap::new();
        for (code, text) in messages.iter() {
            let (server, _) = reason::server(text);
            if server.is_none() {
                // Messages without a server, such as "all brokers are down", add nothing to the servers' own.
                continue;
            }
            let reason = reason::reason(*code, text);
            let best = by_server.entry(server.map(str::to_owned)).or_insert_with(|| reason.clone());
            if reason.kind < best.kind {
                *best = reason;
            }
        }
        let mut reasons: Vec<_> = by_server.into_iter().collect();
        reasons.sort_by_key(|(_, reason)| reason.kind);
        reasons
    }
}

impl ClientContext for CollectedMessages {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        if facility == "FAIL" {
            self.add(RDKafkaErrorCode::BrokerTransportFailure, text);
        }
    }

    fn error(&self, error: KafkaError, text: &str) {
        self.add(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail), text);
    }
}

impl ConsumerContext for CollectedMessages {}

/// No broker answers: the reason given by each, the most specific first.
#[derive(Debug)]
pub struct Unreachable(Vec<(Option<String>, FailureReason)>);

impl Unreachable {
    /// Describes the problem, one line per server.
    pub fn sentence(&self) -> String {
        let line = |(server, reason): &(Option<String>, FailureReason)| match server {
            Some(server) => format!("{server}: {}", reason.sentence),
            None => reason.sentence.clone(),
        };
        let mut lines: Vec<String> = self.0.iter().map(line).collect();
        lines.dedup();
        lines.join("\n")
    }

    /// Returns the remedy for the first server's problem.
    pub fn remedy(&self) -> &str {
        self.0.first().map_or("", |(_, reason)| &reason.remedy)
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no broker answers; {}: {}", self.sentence().replace('\n', "; "), self.remedy())
    }
}

impl std::error::Error for Unreachable {}

/// Asks the brokers for a sign of life with this client, or else with a new one. Returns the client if a broker answers
/// within 2 s; a client that got no answer may never get one again, even if others do. Blocks.
pub fn answered(settings: &Settings, client: Option<QueryClient>) -> Option<QueryClient> {
    let client = match client {
        Some(client) => client,
        None => query_client(settings)
            .inspect_err(|error| tracing::error!(error = format!("{error:#}"), "the brokers cannot be asked"))
            .ok()?,
    };
    client.client().fetch_metadata(None, Duration::from_secs(2)).is_ok().then_some(client)
}

/// A client that only asks questions.
pub type QueryClient = BaseConsumer<Quiet>;

/// Creates a client that only asks questions.
pub fn query_client(settings: &Settings) -> anyhow::Result<QueryClient> {
    client_config(settings).create_with_context(Quiet).context("the Kafka client could not be created")
}

/// The state of a topic according to the brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicState {
    /// The topic exists.
    There {
        /// Number of partitions.
        partitions: usize,
        /// The partitions without a leader, which cannot be read or written now.
        leaderless: Vec<i32>,
    },
    /// There is no topic of that name.
    Missing,
    /// The brokers do not describe the topic, for example because a right is missing.
    Refused(FailureReason),
}

/// A cluster of which a broker has answered.
pub struct Cluster {
    client: BaseConsumer<CollectedMessages>,
    all: Metadata,
    patience: Duration,
}

impl Cluster {
    /// Reaches a broker within `patience`, which is also the timeout of each later question. The error contains the
    /// reason given by each broker. Blocks.
    pub fn reach(settings: &Settings, patience: Duration) -> Result<Cluster, Unreachable> {
        let mut config = client_config(settings);
        // Only this level includes every failure. A connection attempt must fail before the patience ends.
        config.set("debug", "broker").set_log_level(RDKafkaLogLevel::Debug);
        let setup = (patience.as_millis() * 4 / 5).max(1_000);
        config.set("socket.connection.setup.timeout.ms", setup.to_string());
        let client: BaseConsumer<CollectedMessages> =
            config.create_with_context(CollectedMessages::default()).map_err(|error| {
                Unreachable(vec![(None, reason::reason(RDKafkaErrorCode::Fail, &error.to_string()))])
            })?;
        let started = Instant::now();
        loop {
            let failed = match client.fetch_metadata(None, ATTEMPT_TIMEOUT.min(patience)) {
                Ok(all) => return Ok(Cluster { client, all, patience }),
                Err(error) => error,
            };
            collect_messages(&client);
            let mut reasons = client.context().reasons();
            let is_final = !reasons.is_empty() && reasons.iter().all(|(_, reason)| reason.kind.is_final());
            if !is_final && started.elapsed() < patience {
                continue;
            }
            if reasons.is_empty() {
                let code = failed.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                reasons.push((None, reason::reason(code, "timed out")));
            }
            for (server, reason) in &mut reasons {
                name_certificate_problem(settings, server.as_deref(), reason);
            }
            return Err(Unreachable(reasons));
        }
    }

    /// Returns the id of one broker.
    pub fn broker(&self) -> Option<i32> {
        self.all.brokers().first().map(|broker| broker.id())
    }

    /// Returns the number of brokers.
    pub fn brokers(&self) -> usize {
        self.all.brokers().len()
    }

    /// Returns the state of each of these topics (names with prefix), in order. Creates none of them. Blocks.
    pub fn topics(&self, names: &[String]) -> Vec<TopicState> {
        let find = |metadata: &Metadata, name: &str| {
            metadata.topics().iter().find(|topic| topic.name() == name).map(state)
        };
        let state = |name: &String| match find(&self.all, name) {
            Some(state) => state,
            // The list omits topics that this client may not see; asked by name, the broker reports that. A consumer's
            // question does not create a topic.
            None => match self.client.fetch_metadata(Some(name), self.patience) {
                Ok(metadata) => find(&metadata, name).unwrap_or(TopicState::Missing),
                Err(error) => TopicState::Refused(of(&error)),
            },
        };
        names.iter().map(state).collect()
    }

    /// Returns the operations that this client may perform on each of the topics; empty if no broker reports them.
    /// Blocks.
    pub fn operations_on_topics(&self, names: &[String]) -> BTreeMap<String, Allowed> {
        operations::on_topics(self.client.client(), names, self.patience)
            .inspect_err(|error| {
                tracing::debug!(error = format!("{error:#}"), "no broker described the topics' rights")
            })
            .unwrap_or_default()
    }

    /// Returns the operations that this client may perform on the group; `None` if no broker reports them. Blocks.
    pub fn operations_on_group(&self, group: &str) -> Allowed {
        operations::on_group(self.client.client(), group, self.patience)
            .inspect_err(|error| {
                tracing::debug!(error = format!("{error:#}"), "no broker described the group's rights")
            })
            .unwrap_or_default()
    }
}

fn state(topic: &MetadataTopic) -> TopicState {
    match topic.error().map(RDKafkaErrorCode::from) {
        None | Some(RDKafkaErrorCode::LeaderNotAvailable) => TopicState::There {
            partitions: topic.partitions().len(),
            leaderless: topic
                .partitions()
                .iter()
                .filter(|part| part.leader() < 0)
                .map(|part| part.id())
                .collect(),
        },
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            TopicState::Missing
        }
        Some(code) => TopicState::Refused(reason::reason(code, &code.to_string())),
    }
}

fn of(error: &KafkaError) -> FailureReason {
    reason::reason(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail), &error.to_string())
}

/// Passes librdkafka's queued messages to the context.
fn collect_messages(client: &BaseConsumer<CollectedMessages>) {
    // A single call without a timeout returns after the first log line.
    let until = Instant::now() + Duration::from_millis(50);
    while Instant::now() < until {
        let _ = client.poll(Duration::from_millis(10));
    }
}

fn name_certificate_problem(settings: &Settings, server: Option<&str>, reason: &mut FailureReason) {
    if reason.kind != Kind::UntrustedCertificate {
        return;
    }
    if let Some((kind, words)) = server.and_then(|server| certificate::problem(settings, server)) {
        *reason = FailureReason::new(kind, &words);
        reason.sentence = format!("{} ({words})", reason.sentence);
    }
}

/// Checks that this client may use its consumer group, by asking for the group's offset of this topic (with prefix).
/// Neither joins the group nor changes anything. Blocks for at most `patience`.
pub fn group_usable(settings: &Settings, topic: &str, patience: Duration) -> Result<(), FailureReason> {
    let mut config = consumer_config(settings);
    config.set("group.id", &settings.kafka_group_id);
    let consumer: BaseConsumer<CollectedMessages> =
        config.create_with_context(CollectedMessages::default()).map_err(|error| of(&error))?;
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, 0);
    let started = Instant::now();
    loop {
        let left = patience.saturating_sub(started.elapsed());
        // The first question in a new cluster creates the coordinator's topic.
        let refused = match consumer.committed_offsets(asked.clone(), ATTEMPT_TIMEOUT.max(left / 4)) {
            Ok(offsets) => match offsets.elements().iter().find_map(|element| element.error().err()) {
                None => return Ok(()),
                Some(error) => of(&error),
            },
            Err(error) => of(&error),
        };
        // A missing right to ask for the coordinator is reported only this way.
        collect_messages(&consumer);
        if let Some(right) = consumer.context().missing_right() {
            return Err(right);
        }
        if refused.kind.is_final() || started.elapsed() >= patience {
            // Brokers were reached before, so the coordinator is the one that is away.
            let is_away = matches!(refused.kind, Kind::TimedOut | Kind::CoordinatorAway);
            return Err(if is_away { FailureReason::new(Kind::CoordinatorAway, "") } else { refused });
        }
    }
}

/// Reads the settings of these topics and of a broker, by name; an error for each that may not be read.
pub async fn configs(
    settings: &Settings,
    topics: &[String],
    broker: Option<i32>,
    patience: Duration,
) -> anyhow::Result<Vec<Result<BTreeMap<String, String>, FailureReason>>> {
    let client: AdminClient<DefaultClientContext> =
        client_config(settings).create().context("the Kafka client could not be created")?;
    let options = AdminOptions::new().request_timeout(Some(patience));
    let resources: Vec<ResourceSpecifier<'_>> = topics
        .iter()
        .map(|topic| ResourceSpecifier::Topic(topic))
        .chain(broker.map(ResourceSpecifier::Broker))
        .collect();
    // Asked one by one, as a joint answer may come in another order.
    let asked = resources.iter().map(|resource| client.describe_configs([resource], &options));
    let answers = join_all(asked).await.into_iter().map(|answer| {
        let resource = answer.map_err(|error| of(&error))?.pop();
        let resource = resource.unwrap_or(Err(RDKafkaErrorCode::Fail));
        let entries = resource.map_err(|code| reason::reason(code, &code.to_string()))?.entries;
        Ok(entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
    });
    let answers = answers.collect();
    // Dropping the client waits for its thread.
    tokio::task::spawn_blocking(move || drop(client)).await?;
    Ok(answers)
}

/// Returns the state of each of these topics. Blocks for at most `patience` per question.
pub fn topic_states(
    settings: &Settings,
    names: &[String],
    patience: Duration,
) -> Result<Vec<TopicState>, Unreachable> {
    Ok(Cluster::reach(settings, patience)?.topics(names))
}

//! The live consumer: one loop that owns all its state. It gathers the next batches while others are written,
//! starts partitions where the database says, and stays in its group whatever the database does.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt;
use futures_util::future::{OptionFuture, join_all};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::topic_ids::topic_ids;
use super::{BATCH_MAX_BYTES, asking_client, consumer_config, record};
use crate::config::Settings;
use crate::ingest::{Ingest, Positions, Stop};
use crate::record::{Record, Topic};
use crate::retry::retry;
use crate::store::Fault;
use crate::store::offsets::{Partition, Position};
use crate::store::write::Written;

type Key = (Topic, i32);

/// So many batches are written at the same time, each over a connection of its own: PostgreSQL works on one
/// while another waits for its disk or the network. A partition always goes to the same lane, which keeps
/// its records in order.
const LANES: usize = 2;

/// So many records are taken at once from those that are there, before anything else is looked at.
const TAKE: usize = 256;

/// How often positions are committed to Kafka, and compared with the database's.
const COMMIT_EVERY: Duration = Duration::from_secs(2);

/// How often the brokers are asked whether the topics are still those that they were.
const TOPIC_IDS_EVERY: Duration = Duration::from_secs(5);

/// Once the brokers have so often answered another client and not this one, a new one takes its place.
const UNHEARD: u32 = 3;

/// How long the broker may take to answer a question.
const ANSWER: Duration = Duration::from_secs(5);

/// A full batch waits this long for the one before it; then the partitions are paused, so that polling
/// goes on and the group keeps this member.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// What the client tells by itself.
enum Told {
    Assigned(Vec<(String, i32)>),
    Revoked(Vec<(String, i32)>),
    /// The broker did not take offsets that were committed; which, librdkafka does not always say.
    CommitFailed,
}

struct Context {
    told: mpsc::UnboundedSender<Told>,
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    /// Revoked partitions go at once. Assigned ones wait for the database to say where they start, which
    /// may take as long as the database is away; meanwhile the loop polls on.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<(String, i32)> =
            list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect();
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let _ = self.told.send(Told::Assigned(partitions));
            return;
        }
        if let Err(error) = consumer.incremental_unassign(list) {
            warn!(%error, "revoked partitions could not be given up one by one; all are given up");
            let _ = consumer.unassign();
        }
        let _ = self.told.send(Told::Revoked(partitions));
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        if result.is_err() || offsets.elements().iter().any(|element| element.error().is_err()) {
            let _ = self.told.send(Told::CommitFailed);
        }
    }
}

/// Which client the brokers answered.
enum Answer {
    /// The consumer's own, with the topics' ids.
    Ours(TopicIds),
    /// Only one that was made to ask.
    Anothers,
    /// None.
    Nobodys,
}

/// Why consuming ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to.
    Cancelled,
    /// A topic was made anew, and the client cannot be trusted with it: librdkafka 2.12 takes no leader of a new
    /// topic whose epoch is lower than the old one's, and fetches in vain. A new consumer is to go on.
    TopicMadeAnew,
    /// Another client reaches the brokers, and this one does not: librdkafka 2.12 never connects again once brokers have
    /// told it that there is none, as they do for a moment after they were away. A new consumer is to go on.
    BrokersLost,
    /// `DEAD_LETTER_LIMIT` records of this partition failed one after the other.
    DeadLetterLimit(String, i32),
}

type Write = JoinHandle<(Result<Written, Stop>, Positions)>;
type Comparison = (u64, Result<BTreeMap<Partition, Position>, Fault>);
type TopicIds = BTreeMap<String, Uuid>;
type Load = JoinHandle<Option<(BTreeMap<Key, Position>, TopicIds)>>;

/// Batches of some of the partitions, written one after the other.
#[derive(Default)]
struct Lane {
    buffer: Vec<Record>,
    buffered_bytes: usize,
    /// When the buffer must be written.
    due: Option<Instant>,
    write: Option<Write>,
    /// Of the batch that is being written.
    written_bytes: usize,
}

impl Lane {
    fn is_full(&self, batch_max_records: usize) -> bool {
        self.buffer.len() >= batch_max_records || self.buffered_bytes >= BATCH_MAX_BYTES
    }

    fn clear(&mut self) {
        self.buffer.clear();
        self.buffered_bytes = 0;
        self.due = None;
    }

    fn take(&mut self) -> Vec<Record> {
        let records = std::mem::take(&mut self.buffer);
        self.written_bytes = self.buffered_bytes;
        self.clear();
        records
    }
}

/// The consumer with all its state.
pub struct Live {
    consumer: Arc<StreamConsumer<Context>>,
    told: mpsc::UnboundedReceiver<Told>,
    ingest: Ingest,
    settings: Settings,
    assigned: watch::Sender<bool>,
    /// Cancelled at its end, whatever that is.
    cancel: CancellationToken,
    /// Where the partitions stand in the database, as far as this process knows.
    positions: Positions,
    /// The offset that comes next from each partition; records of others are not wanted.
    next: BTreeMap<Key, i64>,
    /// Assigned partitions that do not yet know where to start.
    starting: BTreeSet<Key>,
    lanes: [Lane; LANES],
    load: Option<Load>,
    /// Partitions that were revoked while a batch was being written, which may hold records of theirs.
    left: BTreeSet<Key>,
    /// What is known of the positions is wrong; they are read again once no batch is being written.
    outdated: bool,
    compare: Option<JoinHandle<Comparison>>,
    /// The topics that the positions are of and that this consumer began with, as far as the brokers tell.
    topic_ids: TopicIds,
    /// What the brokers told last.
    told_topic_ids: TopicIds,
    ask_topic_ids: Option<JoinHandle<Answer>>,
    /// How often the brokers answered only another client, since they last answered this one.
    unheard: u32,
    /// Counts what changed the positions, so that an old comparison is known as such.
    changes: u64,
    paused: bool,
    committed: BTreeMap<Key, i64>,
}

impl Live {
    /// Joins the group. `assigned` is told whether partitions are assigned and know where to start.
    ///
    /// The topics' ids are asked first, and by another client: whatever the consumer gets to know of the topics is at
    /// least as new, so that one that is made anew in its lifetime is noticed whoever has its partitions then.
    pub async fn join(
        settings: &Settings,
        ingest: Ingest,
        assigned: watch::Sender<bool>,
        cancel: CancellationToken,
    ) -> anyhow::Result<Live> {
        let topics = topics(&ingest);
        let asking = Arc::new(asking_client(settings)?);
        let topic_ids = tokio::select! {
            ids = ask_topic_ids(asking, topics.clone()) => ids.unwrap_or_default(),
            () = cancel.cancelled() => TopicIds::new(),
        };
        let (sender, told) = mpsc::unbounded_channel();
        let mut config = consumer_config(settings);
        config.set("group.id", &settings.kafka_group_id);
        let consumer: StreamConsumer<Context> = config
            .create_with_context(Context { told: sender })
            .context("the Kafka consumer could not be made")?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names).context("the topics could not be subscribed to")?;
        Ok(Live {
            consumer: Arc::new(consumer),
            told,
            ingest,
            settings: settings.clone(),
            assigned,
            cancel: cancel.child_token(),
            positions: Positions::new(),
            next: BTreeMap::new(),
            starting: BTreeSet::new(),
            lanes: Default::default(),
            load: None,
            left: BTreeSet::new(),
            outdated: false,
            compare: None,
            topic_ids,
            told_topic_ids: TopicIds::new(),
            ask_topic_ids: None,
            unheard: 0,
            changes: 0,
            paused: false,
            committed: BTreeMap::new(),
        })
    }

    /// Consumes until it is cancelled or must stop; then commits and leaves the group.
    pub async fn run(mut self) -> End {
        let end = self.consume().await;
        self.finish().await;
        end
    }

    async fn consume(&mut self) -> End {
        let consumer = self.consumer.clone();
        let cancel = self.cancel.clone();
        let mut commit = tokio::time::interval(COMMIT_EVERY);
        commit.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // They were asked for before this consumer was made.
        let mut look = tokio::time::interval_at(Instant::now() + TOPIC_IDS_EVERY, TOPIC_IDS_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.start_what_is_due();
            let full = self.lanes.iter().any(|lane| lane.is_full(self.settings.batch_max_records));
            let stalled = full && !self.paused;
            let due = self.next_due();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return End::Cancelled,
                Some(told) = self.told.recv() => self.take_in(told),
                result = landed(&mut self.lanes) => {
                    if let Some(end) = self.written(result) {
                        return end;
                    }
                }
                result = finished(&mut self.load) => {
                    self.load = None;
                    match result {
                        Some(Some((positions, topic_ids))) => {
                            if self.made_anew(&topic_ids) {
                                self.positions.clear();
                                return End::TopicMadeAnew;
                            }
                            self.told_topic_ids = topic_ids.clone();
                            self.topic_ids.extend(topic_ids);
                            if let Some(end) = self.start_partitions(positions) {
                                return end;
                            }
                        }
                        Some(None) => {}
                        None => self.start_load(),
                    }
                }
                result = finished(&mut self.compare) => self.compared(result),
                result = finished(&mut self.ask_topic_ids) => {
                    self.ask_topic_ids = None;
                    if let Some(end) = self.answered(result.unwrap_or(Answer::Nobodys)) {
                        return end;
                    }
                }
                _ = look.tick() => self.start_to_ask_topic_ids(),
                _ = commit.tick() => {
                    self.commit(CommitMode::Async);
                    self.start_comparison();
                }
                () = until(due) => {}
                () = tokio::time::sleep(PAUSE_AFTER), if stalled => self.pause(),
                message = consumer.recv(), if !full || self.paused => {
                    let mut message = Some(message);
                    let mut taken = 0;
                    while let Some(next) = message.take() {
                        let full = match next {
                            Ok(record) => self.gather(&record),
                            Err(error) => {
                                self.consumer_error(&error);
                                true
                            }
                        };
                        taken += 1;
                        // What is received here is gathered in the next round, never dropped.
                        if !full && taken < TAKE {
                            message = consumer.recv().now_or_never();
                        }
                    }
                }
            }
        }
    }

    /// Starts to write what is due, or to read the positions again where they are known to be wrong.
    fn start_what_is_due(&mut self) {
        if self.load.is_some() {
            return;
        }
        if self.topics_changed() && !self.outdated {
            self.reload();
        }
        if self.outdated {
            if !self.is_writing() {
                self.outdated = false;
                self.forget_what_was_gathered();
                self.start_load();
            }
            return;
        }
        let now = Instant::now();
        for number in 0..LANES {
            let due = |lane: &Lane| {
                lane.is_full(self.settings.batch_max_records) || lane.due.is_some_and(|due| due <= now)
            };
            let starts = self.lanes.get(number).is_some_and(|lane| self.may_write(lane) && due(lane));
            if starts && let Some(lane) = self.lanes.get_mut(number) {
                lane.write = Some(start_write(&self.ingest, lane.take(), &self.positions, &self.cancel));
            }
        }
    }

    /// Whether there is a batch to be written that only waits for its time. Large ones are written one after the
    /// other, as a batch is in memory several times on its way.
    fn may_write(&self, lane: &Lane) -> bool {
        let writing = self.lanes.iter().filter(|other| other.write.is_some());
        let writing: usize = writing.map(|other| other.written_bytes).sum();
        lane.write.is_none()
            && !lane.buffer.is_empty()
            && (writing == 0 || writing + lane.buffered_bytes <= 2 * BATCH_MAX_BYTES)
    }

    /// When the next batch is due that waits for nothing but its time.
    fn next_due(&self) -> Option<Instant> {
        if self.load.is_some() || self.outdated {
            return None;
        }
        self.lanes.iter().filter(|lane| self.may_write(lane)).filter_map(|lane| lane.due).min()
    }

    /// Takes a record into its lane. Returns whether the lane is full then.
    fn gather(&mut self, message: &BorrowedMessage<'_>) -> bool {
        let Some(record) = record(message, &self.ingest.topic_prefix) else {
            return false;
        };
        let key = (record.topic, record.partition);
        let number = (key.0 as usize).wrapping_add(usize::try_from(key.1).unwrap_or(0)) % LANES;
        let (Some(next), Some(lane)) = (self.next.get_mut(&key), self.lanes.get_mut(number)) else {
            return false;
        };
        if record.offset < *next {
            return false;
        }
        *next = record.offset + 1;
        lane.due.get_or_insert_with(|| Instant::now() + self.settings.batch_max_wait);
        lane.buffered_bytes += record.size();
        lane.buffer.push(record);
        lane.is_full(self.settings.batch_max_records)
    }

    fn written(&mut self, result: Option<(Result<Written, Stop>, Positions)>) -> Option<End> {
        self.resume();
        // A partition that came back before this batch landed was started where the batch was not yet counted.
        if self.left.iter().any(|key| self.positions.contains_key(key) || self.starting.contains(key)) {
            self.reload();
        }
        let Some((result, positions)) = result else {
            error!("the writer died; the positions are read again");
            self.reload();
            return None;
        };
        self.changes += 1;
        self.move_on(positions);
        if !self.is_writing() {
            self.left.clear();
        }
        match result {
            Ok(written) => {
                if written.dead_letters > 0 {
                    warn!(
                        dead_letters = written.dead_letters,
                        "records that cannot be used were kept as dead letters"
                    );
                }
                self.limit_reached()
            }
            Err(Stop::Cancelled) => None,
            Err(Stop::Fenced) => {
                warn!(
                    "a stored offset is not where this process left it; nothing was written, the positions are read again"
                );
                self.reload();
                None
            }
        }
    }

    /// Takes in how far a write has come.
    fn move_on(&mut self, positions: Positions) {
        for (key, position) in positions.into_iter().filter(|(key, _)| !self.left.contains(key)) {
            if let Some(mine) = self.positions.get_mut(&key)
                && position.next_offset > mine.next_offset
            {
                *mine = position;
            }
        }
    }

    fn limit_reached(&self) -> Option<End> {
        let reached = |position: &&Position| position.dead_in_a_row >= self.ingest.dead_letter_limit;
        let (key, _) = self.positions.iter().find(|(_, position)| reached(position))?;
        Some(End::DeadLetterLimit(self.ingest.topic_name(key.0), key.1))
    }

    fn take_in(&mut self, told: Told) {
        let keys = |partitions: Vec<(String, i32)>, prefix: &str| -> Vec<Key> {
            partitions
                .into_iter()
                .filter_map(|(topic, partition)| {
                    Some((Topic::from_name(topic.strip_prefix(prefix)?)?, partition))
                })
                .collect()
        };
        match told {
            Told::CommitFailed => {
                debug!("offsets were not committed to Kafka; they are with the next ones");
                self.committed.clear();
                return;
            }
            Told::Assigned(partitions) => {
                info!(partitions = partitions.len(), "partitions are assigned");
                self.starting.extend(keys(partitions, &self.ingest.topic_prefix));
                if self.starting.is_empty() {
                    self.assign(&BTreeMap::new());
                }
                self.start_load();
            }
            Told::Revoked(partitions) => {
                info!(partitions = partitions.len(), "partitions are revoked");
                for key in keys(partitions, &self.ingest.topic_prefix) {
                    if self.is_writing() {
                        self.left.insert(key);
                    }
                    self.starting.remove(&key);
                    self.positions.remove(&key);
                    self.next.remove(&key);
                    self.committed.remove(&key);
                    for lane in &mut self.lanes {
                        lane.buffer.retain(|record| (record.topic, record.partition) != key);
                        lane.buffered_bytes = lane.buffer.iter().map(Record::size).sum();
                        lane.due = lane.due.filter(|_| !lane.buffer.is_empty());
                    }
                }
            }
        }
        self.changes += 1;
        self.tell_assigned();
    }

    fn tell_assigned(&self) {
        self.assigned.send_replace(!self.positions.is_empty() && self.starting.is_empty());
    }

    /// Reads where the partitions stand, for as long as it takes.
    fn start_load(&mut self) {
        if self.load.is_some() {
            return;
        }
        let keys: Vec<Key> = self.starting.iter().chain(self.positions.keys()).copied().collect();
        let loader = Loader {
            consumer: self.consumer.clone(),
            ingest: self.ingest.clone(),
            group: self.settings.kafka_group_id.clone(),
            cancel: self.cancel.clone(),
        };
        self.load = Some(tokio::spawn(async move { loader.load(keys).await }));
    }

    /// The positions that this process knows are not the database's: nothing more is gathered or written
    /// before they are read again.
    fn reload(&mut self) {
        self.outdated = true;
        self.changes += 1;
        self.forget_what_was_gathered();
    }

    fn forget_what_was_gathered(&mut self) {
        self.lanes.iter_mut().for_each(Lane::clear);
        self.next.clear();
    }

    /// Partitions know where they start: new ones are assigned there, others sought to it if they were
    /// to start again.
    fn start_partitions(&mut self, loaded: BTreeMap<Key, Position>) -> Option<End> {
        self.changes += 1;
        self.resume();
        let mut assign = BTreeMap::new();
        let mut seek = BTreeMap::new();
        for (key, position) in loaded {
            if self.starting.remove(&key) {
                assign.insert(key, position);
            } else if self.positions.contains_key(&key) && !self.next.contains_key(&key) {
                seek.insert(key, position);
            }
        }
        if !assign.is_empty() {
            self.assign(&assign);
        }
        if !seek.is_empty() && !self.seek(&seek) {
            self.start_load();
        }
        if !self.starting.is_empty() {
            self.start_load();
        }
        self.tell_assigned();
        self.limit_reached()
    }

    fn list(&self, positions: &BTreeMap<Key, Position>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), position) in positions {
            let topic = self.ingest.topic_name(*topic);
            if let Err(error) =
                list.add_partition_offset(&topic, *partition, Offset::Offset(position.next_offset))
            {
                error!(%error, topic, partition, "an offset is out of range");
            }
        }
        list
    }

    fn assign(&mut self, positions: &BTreeMap<Key, Position>) {
        if let Err(error) = self.consumer.incremental_assign(&self.list(positions)) {
            error!(%error, "partitions could not be assigned; the group will assign them again");
            return;
        }
        // librdkafka keeps a partition paused that was revoked while it was.
        if let Err(error) = self.consumer.resume(&self.list(positions)) {
            warn!(%error, "the partitions could not be resumed");
        }
        for (key, position) in positions {
            self.positions.insert(*key, *position);
            self.next.insert(*key, position.next_offset);
            info!(topic = %key.0, partition = key.1, offset = position.next_offset, "a partition starts");
        }
    }

    /// Blocks for a moment, and nothing is polled meanwhile: what is polled afterwards comes from the new
    /// place.
    fn seek(&mut self, positions: &BTreeMap<Key, Position>) -> bool {
        let list = self.list(positions);
        let sought = tokio::task::block_in_place(|| self.consumer.seek_partitions(list, ANSWER));
        match sought {
            Ok(list) if list.elements().iter().all(|element| element.error().is_ok()) => {
                for (key, position) in positions {
                    self.positions.insert(*key, *position);
                    self.next.insert(*key, position.next_offset);
                }
                true
            }
            Ok(_) => {
                warn!("some partitions could not be sought to their positions; this is tried again");
                false
            }
            Err(error) => {
                warn!(%error, "the partitions could not be sought to their positions; this is tried again");
                false
            }
        }
    }

    fn assigned_list(&self) -> TopicPartitionList {
        self.list(&self.positions)
    }

    fn pause(&mut self) {
        debug!("a full batch waits for the one before it: the partitions are paused");
        match self.consumer.pause(&self.assigned_list()) {
            Ok(()) => self.paused = true,
            Err(error) => warn!(%error, "the partitions could not be paused"),
        }
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.paused)
            && let Err(error) = self.consumer.resume(&self.assigned_list())
        {
            warn!(%error, "the partitions could not be resumed");
        }
    }

    fn consumer_error(&mut self, error: &KafkaError) {
        match error {
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
            ) => {
                error!(
                    "the topic no longer has an offset that was to be read; the positions are looked at again"
                );
                self.reload();
            }
            error => warn!(%error, "the Kafka consumer reports"),
        }
    }

    fn commit(&mut self, mode: CommitMode) {
        let changed: BTreeMap<Key, Position> = self
            .positions
            .iter()
            .filter(|(key, position)| self.committed.get(key) != Some(&position.next_offset))
            .map(|(key, position)| (*key, *position))
            .collect();
        if changed.is_empty() {
            return;
        }
        match self.consumer.commit(&self.list(&changed), mode) {
            Ok(()) => {
                self.committed.extend(changed.iter().map(|(key, position)| (*key, position.next_offset)))
            }
            Err(error) => {
                debug!(%error, "the offsets could not be committed to Kafka; the database has them")
            }
        }
    }

    /// The database is the truth also where nothing is to be written: one that was restored from a
    /// backup is found here.
    fn start_comparison(&mut self) {
        if self.compare.is_none() && self.load.is_none() && self.is_idle() {
            let store = self.ingest.store.clone();
            let group = self.settings.kafka_group_id.clone();
            let changes = self.changes;
            self.compare = Some(tokio::spawn(async move { (changes, store.positions(&group).await) }));
        }
    }

    fn compared(&mut self, result: Option<Comparison>) {
        self.compare = None;
        let Some((changes, Ok(stored))) = result else {
            return;
        };
        if changes != self.changes || self.load.is_some() || !self.is_idle() {
            return;
        }
        let differs = |(key, mine): (&Key, &Position)| {
            let stored = stored.get(&(self.ingest.topic_name(key.0), key.1));
            stored.map(|stored| stored.next_offset) != Some(mine.next_offset)
        };
        if self.positions.iter().any(differs) {
            warn!("the database's offsets are not those of this process; it goes on from the database's");
            self.reload();
        }
    }

    /// A topic that is deleted and made anew beside us is read on where the old one ended, as if nothing
    /// were; only its id has changed.
    fn start_to_ask_topic_ids(&mut self) {
        if self.ask_topic_ids.is_some() {
            return;
        }
        let (client, settings, topics) = (self.consumer.clone(), self.settings.clone(), topics(&self.ingest));
        self.ask_topic_ids = Some(tokio::spawn(async move {
            if let Some(ids) = ask_topic_ids(client, topics.clone()).await {
                return Answer::Ours(ids);
            }
            let Ok(another) = asking_client(&settings) else {
                return Answer::Nobodys;
            };
            match ask_topic_ids(Arc::new(another), topics).await {
                Some(_) => Answer::Anothers,
                None => Answer::Nobodys,
            }
        }));
    }

    /// Takes in whether the brokers answer, and what.
    fn answered(&mut self, answer: Answer) -> Option<End> {
        match answer {
            Answer::Ours(ids) => {
                self.unheard = 0;
                self.topic_ids_told(ids);
            }
            Answer::Anothers => {
                self.unheard += 1;
                debug!(times = self.unheard, "the brokers answer another client, and not this one");
            }
            Answer::Nobodys => {}
        }
        (self.unheard >= UNHEARD).then_some(End::BrokersLost)
    }

    /// Takes in what the brokers tell. A topic that is new to this consumer is no reason to look at positions, where it
    /// has none of that topic.
    fn topic_ids_told(&mut self, told: TopicIds) {
        let read: BTreeSet<String> = self.positions.keys().map(|key| self.ingest.topic_name(key.0)).collect();
        for (topic, id) in told.iter().filter(|(topic, _)| !read.contains(*topic)) {
            self.topic_ids.entry(topic.clone()).or_insert(*id);
        }
        self.told_topic_ids = told;
    }

    fn is_writing(&self) -> bool {
        self.lanes.iter().any(|lane| lane.write.is_some())
    }

    fn is_idle(&self) -> bool {
        !self.is_writing() && self.lanes.iter().all(|lane| lane.buffer.is_empty())
    }

    /// Whether one of the topics is another than the one that this consumer began with.
    fn made_anew(&self, topic_ids: &TopicIds) -> bool {
        topic_ids.iter().any(|(topic, id)| self.topic_ids.get(topic).is_some_and(|known| known != id))
    }

    fn topics_changed(&self) -> bool {
        self.told_topic_ids.iter().any(|(topic, id)| self.topic_ids.get(topic) != Some(id))
    }

    /// Lets the batches in hand land if the world lets it, commits, and leaves the group.
    async fn finish(mut self) {
        self.cancel.cancel();
        let writes: Vec<Write> = self.lanes.iter_mut().filter_map(|lane| lane.write.take()).collect();
        // The last holder of the consumer leaves the group, and what asks the broker holds it as well.
        let (load, ask) = (self.load.take(), self.ask_topic_ids.take());
        let questions = async { (OptionFuture::from(load).await, OptionFuture::from(ask).await) };
        let within = Duration::from_millis(4500);
        let (landed, _) = futures_util::join!(
            tokio::time::timeout(within, join_all(writes)),
            tokio::time::timeout(within, questions),
        );
        for (_, positions) in landed.into_iter().flatten().flatten() {
            self.move_on(positions);
        }
        let closed = tokio::task::spawn_blocking(move || {
            self.commit(CommitMode::Sync);
            if !self.starting.is_empty() {
                // The group waits for these to be taken before it lets them go.
                let _ = self.consumer.incremental_assign(&TopicPartitionList::new());
            }
            drop(self);
        });
        if tokio::time::timeout(Duration::from_millis(2500), closed).await.is_err() {
            warn!("the broker did not let the consumer leave its group in time");
        }
    }
}

/// Writes a batch beside everything else.
fn start_write(
    ingest: &Ingest,
    records: Vec<Record>,
    positions: &Positions,
    cancel: &CancellationToken,
) -> Write {
    let (ingest, cancel, mut positions) = (ingest.clone(), cancel.clone(), positions.clone());
    tokio::spawn(async move {
        let started = std::time::Instant::now();
        let result = ingest.write(&records, &mut positions, &cancel).await;
        if result.is_ok() {
            metrics::histogram!("voiceclone_batch_seconds").record(started.elapsed().as_secs_f64());
            metrics::counter!("voiceclone_records_total").increment(records.len() as u64);
            debug!(records = records.len(), "a batch has landed");
        }
        (result, positions)
    })
}

/// The next write that ends; `None` where it died.
async fn landed(lanes: &mut [Lane]) -> Option<(Result<Written, Stop>, Positions)> {
    poll_fn(|context| {
        for lane in lanes.iter_mut() {
            if let Some(write) = &mut lane.write
                && let Poll::Ready(result) = Pin::new(write).poll(context)
            {
                lane.write = None;
                return Poll::Ready(result.ok());
            }
        }
        Poll::Pending
    })
    .await
}

async fn finished<T>(task: &mut Option<JoinHandle<T>>) -> Option<T> {
    match task {
        Some(task) => task.await.ok(),
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The topics that are subscribed to, named as Kafka has them.
fn topics(ingest: &Ingest) -> Vec<String> {
    Topic::ALL.into_iter().map(|topic| ingest.topic_name(topic)).collect()
}

/// The ids of the topics, as far as they are told (a topic whose id is not known is taken for the old one); `None`
/// where no broker answers.
async fn ask_topic_ids<C: ConsumerContext>(
    client: Arc<impl Consumer<C> + Send + Sync + 'static>,
    topics: Vec<String>,
) -> Option<TopicIds> {
    let asked = tokio::task::spawn_blocking(move || topic_ids(client.client(), &topics, ANSWER));
    match asked.await.unwrap_or_else(|died| Err(died.into())) {
        Ok(ids) => Some(ids),
        Err(error) => {
            debug!(error = format!("{error:#}"), "the topics' ids are not known");
            None
        }
    }
}

/// Finds out where partitions start.
struct Loader {
    consumer: Arc<StreamConsumer<Context>>,
    ingest: Ingest,
    group: String,
    cancel: CancellationToken,
}

impl Loader {
    /// Where each partition starts: where the database says, or at the earliest record where it says
    /// nothing, or something that the topic does not have. `None` when cancelled before.
    async fn load(self, keys: Vec<Key>) -> Option<(BTreeMap<Key, Position>, TopicIds)> {
        let topic_ids = ask_topic_ids(self.consumer.clone(), topics(&self.ingest)).await.unwrap_or_default();
        let read = || self.ingest.store.positions(&self.group);
        let mut stored = retry("reading the stored offsets", &self.cancel, read).await?;
        let mut loaded = BTreeMap::new();
        for key in keys {
            let partition = (self.ingest.topic_name(key.0), key.1);
            let topic_id = topic_ids.get(&partition.0).copied();
            let start = loop {
                if self.cancel.is_cancelled() {
                    return None;
                }
                let known = stored.get(&partition).copied();
                let look = || self.start(&partition, known, topic_id);
                match retry("finding where a partition starts", &self.cancel, look).await? {
                    Some(position) => break position,
                    None => stored = retry("reading the stored offsets", &self.cancel, read).await?,
                }
            };
            loaded.insert(key, start);
        }
        Some((loaded, topic_ids))
    }

    /// The stored position where the topic has it. Else stores another one, and `None` asks for another
    /// look at what is stored then.
    async fn start(
        &self,
        partition: &Partition,
        stored: Option<Position>,
        topic_id: Option<Uuid>,
    ) -> Result<Option<Position>, Fault> {
        let (low, high) = self.watermarks(partition.clone()).await?;
        let mut to = Position::at(low, topic_id);
        if let Some(stored) = stored {
            let made_anew = stored.topic_id.is_some() && topic_id.is_some() && stored.topic_id != topic_id;
            let there = (low..=high).contains(&stored.next_offset);
            if there && !made_anew {
                if stored.topic_id.is_some() || topic_id.is_none() {
                    return Ok(Some(stored));
                }
                to = Position { topic_id, ..stored };
            } else {
                error!(
                    topic = partition.0,
                    partition = partition.1,
                    stored = stored.next_offset,
                    low,
                    high,
                    "the topic no longer has the stored offset: {}; starting from the earliest record",
                    if made_anew {
                        "it was made anew"
                    } else {
                        "it was made anew, or its retention ran past it"
                    }
                );
                metrics::counter!("voiceclone_offsets_lost_total").increment(1);
            }
        }
        let expected = stored.map(|stored| stored.next_offset);
        self.ingest.store.set_position(&self.group, partition, expected, to).await?;
        Ok(None)
    }

    async fn watermarks(&self, (topic, partition): Partition) -> Result<(i64, i64), Fault> {
        let consumer = self.consumer.clone();
        let watermarks =
            tokio::task::spawn_blocking(move || consumer.fetch_watermarks(&topic, partition, ANSWER));
        match watermarks.await {
            Ok(Ok(watermarks)) => Ok(watermarks),
            Ok(Err(error)) => Err(Fault::Unavailable(format!("Kafka: {error}"))),
            Err(error) => Err(Fault::Unavailable(error.to_string())),
        }
    }
}

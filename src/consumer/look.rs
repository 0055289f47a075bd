//! The periodic work of the consumer: readiness, log lines, commits to Kafka, comparison with the database, probes of
//! the brokers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::driver::{ANSWER_TIMEOUT, BrokerCheck, Consumer, TaskResult};
use super::gauges::{self, PartitionGauges};
use super::log::LINE_INTERVAL;
use super::start::Starter;
use super::status::{ConsumerStatus, End, Waiting};
use super::{Input, PartitionView, Trouble, TroubleKind, ViewState, progress};
use crate::kafka::quiet;
use crate::metrics;
use crate::record::{Topic, TopicPartition};
use crate::store::Fault;
use crate::store::offsets::Position;

/// Interval of commits to Kafka and of comparisons with the database.
const COMMIT_INTERVAL: Duration = Duration::from_secs(2);

/// Interval of asking the brokers for the topics.
const TOPICS_INTERVAL: Duration = Duration::from_secs(5);

/// A client that received nothing for this long is probed. Records count as a sign of life, as requests wait behind
/// them under a quota.
const PROBE_AFTER: Duration = Duration::from_secs(10);

/// Consecutive failed probes, while another client gets answers, after which the client is replaced.
const MAX_FAILED_PROBES: u32 = 3;

/// A member without an assignment logs the possible reasons after this time, and again every minute.
const ASSIGNMENT_WAIT: Duration = Duration::from_secs(4);

/// Kafka counts as recovered after this time without a failing client, as one of several brokers may be away.
const RECOVERED_AFTER: Duration = Duration::from_secs(15);

impl Consumer {
    /// Does the periodic work that is due.
    pub(super) fn look(&mut self) -> Option<End> {
        let now = Instant::now();
        self.looks += 1;
        let every = |period: Duration| self.looks.is_multiple_of(period.as_secs().max(1));
        let (commits, checks_brokers) = (every(COMMIT_INTERVAL), every(TOPICS_INTERVAL));
        self.publish_status(now);
        self.log_missing_assignment(now);
        if commits {
            self.commit();
            self.compare();
        }
        if checks_brokers {
            self.check_brokers(now);
        }
        if self.machine.wants_records() { self.receive() } else { None }
    }

    fn publish_status(&mut self, now: Instant) {
        let no_leader = Trouble { kind: TroubleKind::NoLeader, text: "no broker leads it".into() };
        let outage = self.machine.database_is_away();
        if outage {
            self.progress.restart(now);
        }
        let (mut read, mut is_behind) = (0_usize, false);
        let (mut waiting, mut troubled, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        let (buffered, clock) = (gauges::first_timestamps(self.machine.buffered()), metrics::now());
        for view in self.machine.view() {
            let key = view.partition;
            let leaderless = self.leaders.get(&key).is_some_and(Option::is_none);
            let trouble = view.trouble.or(leaderless.then_some(&no_leader));
            let is_resting = matches!(view.state, ViewState::Stopped | ViewState::Paused);
            let end = self.ends.get(&key).copied().max(view.read_to);
            let next_offset = view.position.map(|position| position.next_offset);
            match next_offset.filter(|_| !is_resting) {
                Some(next_offset) => self.progress.observe(key, next_offset, end, now),
                None if is_resting => self.progress.rest(key),
                None => {}
            }
            let waited = next_offset.and_then(|_| self.progress.waited(key, now));
            let stalled = waited.is_some_and(|waited| waited >= progress::LIMIT);
            let lag = end.zip(next_offset).map_or(0, |(end, next_offset)| (end - next_offset).max(0));
            let held = view.held.or_else(|| buffered.get(&key).copied());
            let oldest = next_offset.and_then(|next| self.oldest.look(key, next, held, lag));
            let age = oldest.map_or(0.0, |oldest| metrics::seconds((clock - oldest).max(0)));
            seen.push(PartitionGauges {
                topic: key.topic,
                state: gauges::state(view.state, trouble.map(|trouble| trouble.kind), stalled, lag, age),
                lag,
                age,
                dead_in_a_row: view.position.map_or(0, |position| position.dead_in_a_row),
            });
            if is_resting {
                self.oldest.forget(key);
                continue;
            }
            is_behind |= next_offset.is_none() || !self.ends.contains_key(&key) || next_offset < end;
            read += 1;
            troubled.extend(trouble.map(|trouble| (key, trouble)));
            if trouble.is_some() || stalled {
                waiting.push(Waiting {
                    topic: self.ingest.topic_name(key.topic),
                    partition: key.partition,
                    waits_for: trouble.map_or("unknown", |trouble| trouble.kind.name()),
                    reason: trouble.map_or_else(String::new, |trouble| trouble.text.clone()),
                    for_seconds: waited.map(|waited| waited.as_secs()),
                    stalled,
                });
            }
        }
        for line in self.troubles.compare(troubled.into_iter(), now) {
            line.log(&self.ingest.topic_prefix);
        }
        if read > 0
            && !is_behind
            && let Some(since) = self.behind.take()
        {
            let for_seconds = now.saturating_duration_since(since).as_secs();
            info!(
                partitions = read,
                for_seconds, "caught up: all that the assigned partitions held has landed"
            );
        }
        gauges::show(&seen, &self.machine.paused);
        self.status.send_replace(ConsumerStatus {
            member: self.member,
            member_id: self.member_id.clone(),
            heard: self.heard,
            landed: self.landed,
            waiting,
        });
    }

    fn log_missing_assignment(&mut self, now: Instant) {
        let last =
            self.waiting_logged_at.map_or(self.joined + ASSIGNMENT_WAIT, |logged| logged + LINE_INTERVAL);
        if !self.member && last <= now {
            self.waiting_logged_at = Some(now);
            info!(
                group = self.starter.group,
                for_seconds = now.saturating_duration_since(self.joined).as_secs(),
                session_timeout_ms = self.group.session_timeout_ms(),
                "waiting for the group to assign partitions: the brokers may be away, another member may be slow, or one \
                 that was killed holds its partitions until its session ends (session.timeout.ms). With \
                 KAFKA_GROUP_INSTANCE_ID a restarted instance takes its own place at once"
            );
        }
    }

    /// Commits to Kafka the stored offsets that are not known to be committed.
    fn commit(&mut self) {
        let changed = self.uncommitted();
        if self.committing || changed.is_empty() || !self.member {
            return;
        }
        self.committing = true;
        let commit = self.group.committing(&changed, ANSWER_TIMEOUT);
        self.spawn(TaskResult::Committed(Err("the task died".into())), async move {
            let committed = tokio::task::spawn_blocking(commit).await;
            TaskResult::Committed(match committed {
                Ok(Ok(committed)) => Ok(committed),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            })
        });
    }

    pub(super) fn uncommitted(&self) -> Vec<(TopicPartition, i64)> {
        let positions = self.machine.positions();
        let offsets = positions.into_iter().map(|(key, position)| (key, position.next_offset));
        offsets.filter(|(key, offset)| self.committed.get(key) != Some(offset)).collect()
    }

    fn compare(&mut self) {
        if std::mem::replace(&mut self.comparing, true) {
            return;
        }
        let (starter, asked) = (self.starter.clone(), self.machine.positions());
        self.spawn(TaskResult::NotCompared("the task died".into()), async move {
            match stored(&starter).await {
                Ok((stored, paused)) => TaskResult::Input(Input::Stored { asked, stored, paused }),
                Err(fault) => TaskResult::NotCompared(fault.to_string()),
            }
        });
    }

    fn check_brokers(&mut self, now: Instant) {
        if std::mem::replace(&mut self.checking_brokers, true) {
            return;
        }
        let silent = self.heard.unwrap_or(self.joined) + PROBE_AFTER <= now;
        let probe = silent.then(|| self.group.probing(ANSWER_TIMEOUT));
        let starter = self.starter.clone();
        let is_resting =
            |view: &PartitionView<'_>| matches!(view.state, ViewState::Stopped | ViewState::Paused);
        let resting: Vec<_> = self.machine.view().filter(is_resting).map(|view| view.partition).collect();
        let none = |probe_failed| BrokerCheck { topics: None, probe_failed, ends: BTreeMap::new() };
        self.spawn(TaskResult::BrokersChecked(none(false)), async move {
            let answered = match probe {
                Some(probe) => tokio::task::spawn_blocking(probe).await.unwrap_or(false),
                None => true,
            };
            match starter.topics().await {
                Ok(topics) => {
                    let ends = starter.ends(&resting, &topics).await;
                    TaskResult::BrokersChecked(BrokerCheck {
                        topics: Some(topics),
                        probe_failed: !answered,
                        ends,
                    })
                }
                Err(error) => {
                    quiet::failed(&format!("{error:#}"));
                    TaskResult::BrokersChecked(none(!answered))
                }
            }
        });
    }

    /// Handles the result of asking the brokers.
    pub(super) fn brokers_checked(&mut self, check: BrokerCheck) -> Option<End> {
        self.checking_brokers = false;
        self.ends.extend(check.ends);
        match check.topics {
            Some(_) if check.probe_failed => {
                self.failed_probes += 1;
                debug!(
                    times = self.failed_probes,
                    "the brokers answer another client, but not the consumer's"
                );
            }
            Some(_) => {
                self.failed_probes = 0;
                quiet::recovered_after(RECOVERED_AFTER);
            }
            None => {}
        }
        let end = check.topics.and_then(|topics| self.on_topics(topics));
        end.or((self.failed_probes >= MAX_FAILED_PROBES).then_some(End::BrokersLost))
    }
}

type Stored = (BTreeMap<TopicPartition, Position>, BTreeSet<Topic>);

async fn stored(starter: &Starter) -> Result<Stored, Fault> {
    let (stored, paused) = futures_util::join!(starter.stored(), starter.store.paused_topics(&starter.group));
    Ok((stored?, paused?))
}

//! The readiness task: keeps the answer of `/readyz` up to date (contract, section 7: "Ready means progress").

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::config::Settings;
use crate::consumer::ConsumerStatus;
use crate::http::{Conditions, Readiness};
use crate::kafka;
use crate::metrics;
use crate::retry::pause_for;
use crate::store::Store;

/// How often readiness is checked.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How often a write proves that the database takes writes.
const BEAT_EVERY: Duration = Duration::from_secs(5);

/// Timeout of that write, and of a query of the schema.
const ANSWER: Duration = Duration::from_secs(2);

/// Keeps the receivers of `ready` up to date.
pub(super) async fn watch_readiness(
    settings: Settings,
    store: Store,
    consumer: watch::Receiver<ConsumerStatus>,
    ready: watch::Sender<Readiness>,
    cancel: CancellationToken,
) {
    let instance = Uuid::new_v4();
    let mut client = None;
    let mut database = DatabaseState::default();
    loop {
        let status = consumer.borrow().clone();
        let heard = |moment: Option<Instant>, within| moment.is_some_and(|moment| moment.elapsed() < within);
        let (asking, known) = (client.take(), settings.clone());
        let broker = tokio::task::spawn_blocking(move || kafka::answered(&known, asking));
        let (broker, ()) = tokio::join!(
            broker,
            database.look(&store, &settings, instance, &status, heard(status.landed, BEAT_EVERY))
        );
        client = broker.unwrap_or(None);
        let conditions = Conditions {
            schema: database.schema,
            database: database.writes,
            broker: client.is_some() || heard(status.heard, ANSWER),
            member: status.member,
            progress: !status.waiting.iter().any(|waiting| waiting.stalled),
        };
        let before = ready.borrow().conditions;
        if before != conditions {
            info!(
                ready = conditions.all(),
                schema = conditions.schema,
                database = conditions.database,
                broker = conditions.broker,
                member = conditions.member,
                progress = conditions.progress,
                "readiness changed"
            );
        }
        for (condition, holds) in conditions.named() {
            metrics::READY.set_count(&[condition], holds.into());
        }
        ready.send_replace(Readiness { conditions, waiting: status.waiting });
        if !pause_for(WATCH_EVERY, &cancel).await {
            break;
        }
    }
    if tokio::time::timeout(ANSWER, store.end_instance(instance)).await.is_err() {
        warn!("the instance could not be signed off in ingest.instances");
    }
}

/// The known state of the database.
#[derive(Default)]
struct DatabaseState {
    schema: bool,
    writes: bool,
    next_beat: Option<Instant>,
    /// The member id of the last heartbeat.
    member: Option<String>,
}

impl DatabaseState {
    /// Queries the schema, and proves by a write that the database takes writes, unless a batch has just `landed`.
    async fn look(
        &mut self,
        store: &Store,
        settings: &Settings,
        instance: Uuid,
        status: &ConsumerStatus,
        landed: bool,
    ) {
        let schema = tokio::time::timeout(ANSWER, store.schema_state()).await;
        self.schema = matches!(&schema, Ok(Ok(state)) if state.pending.is_empty());
        if !self.schema {
            // The table to write to may not exist.
            self.writes = matches!(schema, Ok(Ok(_)));
            self.next_beat = None;
            return;
        }
        let is_new_member = self.member != status.member_id;
        if is_new_member || self.next_beat.is_none_or(|next| next <= Instant::now()) {
            let member = status.member_id.as_deref();
            let beat = store.beat(instance, &settings.kafka_group_id, member, &status.waiting);
            let beat = tokio::time::timeout(ANSWER, beat).await;
            self.member.clone_from(&status.member_id);
            self.writes = matches!(beat, Ok(Ok(()))) || landed;
            // A write that hangs keeps its connection, so only a refused one is retried soon.
            let pause = if matches!(beat, Ok(Err(_))) { WATCH_EVERY } else { BEAT_EVERY };
            self.next_beat = Some(Instant::now() + pause);
        }
    }
}

//! The questions to PostgreSQL. A failed question leaves its answer empty, and its reason in `failed`.

use std::time::{Duration, Instant};

use diesel_async::AsyncPgConnection;

use super::{ANSWER_TIMEOUT, timely};
use crate::config::Settings;
use crate::record::{Topic, TopicPartition};
use crate::status::Schema;
use crate::status::facts::{DatabaseAnswers, StoredPositions, Unanswered};
use crate::store::connect::{self, remedy};
use crate::store::letters;
use crate::store::status::{self as questions, Cache, Stored};
use crate::store::{migrate, rights};

/// Maximum time for a connection: several hosts may be tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time for everything that is asked about the cache. Each statement has a limit of its own.
const CACHE_TIMEOUT: Duration = Duration::from_secs(6);

/// A connection with the answers so far.
pub(super) struct Questions<'s> {
    settings: &'s Settings,
    connection: Option<AsyncPgConnection>,
    pub answers: Result<DatabaseAnswers, Unanswered>,
}

async fn connect(settings: &Settings) -> Result<AsyncPgConnection, String> {
    let mut connection = timely(CONNECT_TIMEOUT, connect::connect(&settings.database_url)).await?;
    timely(ANSWER_TIMEOUT, questions::bound(&mut connection)).await?;
    Ok(connection)
}

/// Counts the cache over a connection of its own, as this may take longer than everything else.
pub(super) async fn count_cache(settings: Settings) -> Result<Cache, String> {
    let mut connection = connect(&settings).await?;
    timely(CACHE_TIMEOUT, questions::cache(&mut connection)).await
}

impl<'s> Questions<'s> {
    pub async fn connect(settings: &'s Settings) -> Questions<'s> {
        let (connection, answers) = match connect(settings).await {
            Ok(connection) => (Some(connection), Ok(DatabaseAnswers::default())),
            Err(what) => (None, Err(Unanswered { fix: remedy(&what).to_owned(), what })),
        };
        Questions { settings, connection, answers }
    }

    fn parts(&mut self) -> Option<(&mut AsyncPgConnection, &mut DatabaseAnswers)> {
        self.connection.as_mut().zip(self.answers.as_mut().ok())
    }

    /// Reads the stored positions for one of the two looks. Returns the time at which they were read.
    pub async fn positions(&mut self, look: usize) -> Instant {
        let settings = self.settings;
        let Some((connection, answers)) = self.parts() else { return Instant::now() };
        let answer = timely(ANSWER_TIMEOUT, questions::positions(connection, &settings.kafka_group_id)).await;
        match (answer, answers.positions.get_mut(look)) {
            (Ok(stored), Some(place)) => *place = Some(by_partition(settings, stored)),
            (Ok(_), None) => {}
            // reported only if the second look fails, too
            (Err(_), _) if look == 0 => {}
            (Err(why), _) => answers.failed.push(("the stored offsets", why)),
        }
        Instant::now()
    }

    /// Asks for everything but positions, dead letters and the cache: a few rows each.
    pub async fn ask(&mut self) {
        let group = self.settings.kafka_group_id.clone();
        let Some((connection, answers)) = self.parts() else { return };
        let failed = &mut answers.failed;
        if let Some(server) = answer(failed, "itself", rights::server(connection)).await {
            answers.server.version = Some(server.version);
            answers.server.role = Some(server.role);
            answers.read_only = server.read_only;
        }
        answers.server.connections = answer(failed, "connections", questions::connections(connection)).await;
        if let Some(state) = answer(failed, "its schema", migrate::state(connection)).await {
            let current = state.applied.last().cloned();
            answers.server.schema = Some(Schema { current, pending: state.pending });
        }
        let pauses = answer(failed, "pauses", questions::pauses(connection, &group)).await;
        answers.pauses = pauses.unwrap_or_default();
        let skips = answer(failed, "skips", questions::skips(connection, &group)).await;
        answers.skips = skips.unwrap_or_default();
        answers.instances = answer(failed, "instances", questions::instances(connection, &group)).await;
        let waits = answer(failed, "what waits", questions::waits(connection, &group)).await;
        answers.waits = waits.unwrap_or_default();
        answers.outbox = answer(failed, "the outbox", questions::outbox(connection)).await;
    }

    /// Asks for the dead letters.
    pub async fn ask_letters(&mut self) {
        let Some((connection, answers)) = self.parts() else { return };
        let failed = &mut answers.failed;
        let letters = answer(failed, "dead letters", questions::letters(connection)).await;
        let kinds =
            answer(failed, "kinds of dead letters", letters::groups(connection, questions::KINDS)).await;
        answers.letters = letters.zip(kinds);
    }

    pub fn set_cache(&mut self, counted: Result<Cache, String>) {
        let Ok(answers) = &mut self.answers else { return };
        match counted {
            Ok(cache) => answers.cache = Some(cache),
            Err(why) => answers.failed.push(("the voice cache", why)),
        }
    }
}

fn by_partition(settings: &Settings, stored: Vec<Stored>) -> StoredPositions {
    let key = |stored: &Stored| {
        let topic = Topic::from_name(stored.topic.strip_prefix(settings.topic_prefix.as_str())?)?;
        Some(TopicPartition::new(topic, stored.partition))
    };
    stored.into_iter().filter_map(|stored| Some((key(&stored)?, stored))).collect()
}

/// Returns the answer; adds the reason to `failed` where there is none.
async fn answer<T, E: std::fmt::Display>(
    failed: &mut Vec<(&'static str, String)>,
    question: &'static str,
    asked: impl Future<Output = Result<T, E>>,
) -> Option<T> {
    match timely(ANSWER_TIMEOUT + Duration::from_secs(1), asked).await {
        Ok(answer) => Some(answer),
        Err(why) => {
            failed.push((question, why));
            None
        }
    }
}

//! The questions to PostgreSQL. A failed question leaves its answer empty, and its reason in `failed`.

use std::time::{Duration, Instant};

use diesel_async::AsyncPgConnection;
use tokio::sync::oneshot;

use super::{ANSWER_TIMEOUT, timely};
use crate::config::Settings;
use crate::record::{Topic, TopicPartition};
use crate::status::Schema;
use crate::status::facts::{DatabaseAnswers, StoredPositions, Unanswered};
use crate::store::connect::{self, remedy};
use crate::store::letters::{self, LetterGroup};
use crate::store::status::{self as questions, Cache, Letters, Stored};
use crate::store::{migrate, rights};

/// Maximum time for a connection: several hosts may be tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time for all counts of the cache. Each statement has a limit of its own.
const CACHE_TIMEOUT: Duration = Duration::from_secs(6);

/// Numbers of dead letters, and their kinds.
type LetterCounts = (Letters, Vec<LetterGroup>);

/// What takes long to count, or why it was not counted.
pub(super) struct Counts {
    cache: Result<Cache, String>,
    letters: Result<LetterCounts, String>,
}

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

/// Counts the cache and the dead letters over a connection of its own, as this may take longer than everything else. Dead
/// letters are counted after the first look, so that a partition that it finds stopped has its letters.
pub(super) async fn count(settings: Settings, first_look: oneshot::Receiver<()>) -> Counts {
    let mut connection = match connect(&settings).await {
        Ok(connection) => connection,
        Err(why) => return Counts { cache: Err(why.clone()), letters: Err(why) },
    };
    let cache = timely(CACHE_TIMEOUT, questions::cache(&mut connection)).await;
    let _ = first_look.await;
    Counts { cache, letters: count_letters(&mut connection).await }
}

async fn count_letters(connection: &mut AsyncPgConnection) -> Result<LetterCounts, String> {
    let patience = ANSWER_TIMEOUT + Duration::from_secs(1);
    let letters = timely(patience, questions::letters(connection)).await?;
    Ok((letters, timely(patience, letters::groups(connection, questions::KINDS)).await?))
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

    /// Takes over what was counted. Dead letters are counted again if a partition had new ones between the two looks.
    pub async fn set_counts(&mut self, counts: Counts) {
        let Some((connection, answers)) = self.parts() else { return };
        let letters = match counts.letters {
            Ok(letters) if !has_new_letters(&answers.positions) => Ok(letters),
            _ => count_letters(connection).await,
        };
        match letters {
            Ok(letters) => answers.letters = Some(letters),
            Err(why) => answers.failed.push(("dead letters", why)),
        }
        match counts.cache {
            Ok(cache) => answers.cache = Some(cache),
            Err(why) => answers.failed.push(("the voice cache", why)),
        }
    }
}

/// Whether a partition stopped or had unusable records between the two looks.
fn has_new_letters([first, second]: &[Option<StoredPositions>; 2]) -> bool {
    let (Some(first), Some(second)) = (first, second) else { return true };
    second.iter().any(|(key, now)| {
        let before = first.get(key).map(|before| (before.dead_in_a_row, before.stopped_at.as_ref()));
        (now.dead_in_a_row, now.stopped_at.as_ref()) != before.unwrap_or_default()
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn look(dead_in_a_row: i64, stopped_at: Option<&str>) -> Option<StoredPositions> {
        let stored = Stored {
            topic: "clone.ready".into(),
            partition: 0,
            next_offset: 7,
            dead_in_a_row,
            topic_id: None,
            stopped_at: stopped_at.map(str::to_owned),
            moved_at: String::new(),
            idle_seconds: 0.0,
        };
        Some(StoredPositions::from([(TopicPartition::new(Topic::CloneReady, 0), stored)]))
    }

    #[test]
    fn letters_are_counted_again_if_a_partition_had_some_or_stopped_between_the_looks() {
        for (looks, expected) in [
            ([look(0, None), look(0, None)], false),
            ([look(3, Some("t")), look(3, Some("t"))], false),
            ([look(2, None), look(3, None)], true),
            ([look(3, None), look(3, Some("t"))], true),
            ([Some(StoredPositions::new()), look(0, None)], false),
            ([Some(StoredPositions::new()), look(1, None)], true),
            ([None, look(0, None)], true),
        ] {
            assert_eq!(has_new_letters(&looks), expected, "{looks:?}");
        }
    }
}

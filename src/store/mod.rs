//! PostgreSQL: the only place that knows Diesel.

pub mod claim;
pub mod connect;
pub mod dead_letters;
pub mod expiry;
pub mod fault;
pub mod migrate;
pub mod offsets;
pub mod outbox;
pub mod overview;
pub mod rights;
mod unnest;
pub mod unpublished;
pub mod write;

use std::sync::Arc;

use diesel_async::pooled_connection::AsyncDieselConnectionManager;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};

pub use connect::Pool;
pub use fault::Fault;

/// Everything that is read from and written to PostgreSQL goes through one of these.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    habits: Arc<write::Habits>,
    letters: Arc<dead_letters::KnownLetters>,
}

/// A connection of the pool.
type Pooled<'p> = bb8::PooledConnection<'p, AsyncDieselConnectionManager<AsyncPgConnection>>;

impl Store {
    /// Over this pool; connects when it is first used.
    pub fn new(pool: Pool) -> Store {
        Store { pool, habits: Arc::default(), letters: Arc::default() }
    }

    async fn connection(&self) -> Result<Pooled<'_>, Fault> {
        self.pool.get().await.map_err(|error| {
            Fault::Unavailable(match error {
                bb8::RunError::TimedOut => "no connection to PostgreSQL could be had in time".into(),
                bb8::RunError::User(error) => format!("no connection to PostgreSQL: {error}"),
            })
        })
    }

    /// Whether a connection can be had, and one that answers.
    pub async fn reach(&self) -> Result<(), Fault> {
        Ok(self.connection().await?.batch_execute("").await?)
    }

    /// Whether the server's error messages are in English, in which `fault` knows them.
    pub async fn messages_are_english(&self) -> Result<bool, Fault> {
        let mut connection = self.connection().await?;
        Ok(rights::messages_are_english(&mut connection).await?)
    }

    /// Which migrations the database has and lacks.
    pub async fn schema_state(&self) -> Result<migrate::State, Fault> {
        let mut connection = self.connection().await?;
        migrate::state(&mut connection).await.map_err(|error| Fault::Unavailable(format!("{error:#}")))
    }
}

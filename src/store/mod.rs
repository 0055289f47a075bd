//! PostgreSQL: the only place that knows Diesel.
//!
//! Queries are written with Diesel against [`crate::schema`], so that the compiler checks names and types. Raw SQL has
//! its reason beside it: the statements of a batch, and those that Diesel cannot express as clearly.

pub mod analytics;
pub mod claim;
pub mod connect;
pub mod dead_letters;
pub mod expiry;
pub mod fault;
pub mod instances;
pub mod letters;
mod locks;
pub mod migrate;
pub mod offsets;
pub mod outbox;
pub mod overview;
pub mod pauses;
pub mod rights;
pub mod samples;
pub mod skips;
mod sql;
pub mod status;
pub mod tables;
mod unnest;
pub mod unpublished;
pub mod waits;
pub mod whereabouts;
pub mod write;

use std::sync::Arc;

use diesel_async::SimpleAsyncConnection;

pub use connect::Pool;
pub use fault::Fault;
pub use waits::LongStatement;

/// The one way to everything that is read from and written to PostgreSQL.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    lookups: Arc<write::LookupPolicies>,
    letters: Arc<dead_letters::KnownLetters>,
}

impl Store {
    /// Creates a store over this pool. It connects when it is first used.
    pub fn new(pool: Pool) -> Store {
        Store { pool, lookups: Arc::default(), letters: Arc::default() }
    }

    async fn connection(&self) -> Result<connect::Pooled<'_>, Fault> {
        self.pool.get().await.map_err(no_connection)
    }

    /// See [`Pool::get_unchecked`].
    async fn unchecked_connection(&self) -> Result<connect::Pooled<'_>, Fault> {
        self.pool.get_unchecked().await.map_err(no_connection)
    }

    /// Checks that a connection can be had, and that it answers.
    pub async fn reach(&self) -> Result<(), Fault> {
        Ok(self.connection().await?.batch_execute("").await?)
    }

    /// The migrations that the database has and lacks.
    pub async fn schema_state(&self) -> Result<migrate::SchemaState, Fault> {
        let mut connection = self.connection().await?;
        migrate::state(&mut connection).await.map_err(|error| Fault::Unavailable(format!("{error:#}")))
    }
}

fn no_connection(reason: String) -> Fault {
    Fault::Unavailable(format!("no connection to PostgreSQL: {reason}"))
}

//! `ingest.outbox` (contract, section 5): `clone.expired` events from the moment of the expiry until the
//! broker has them. What waits is found by being there, not by a sequence, so a row that is committed
//! late is never skipped.

use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::{Fault, Store};

/// A `clone.expired` event.
#[derive(diesel::QueryableByName, Debug, Clone)]
pub struct Expired {
    /// Also `ce_id`.
    #[diesel(sql_type = SqlUuid)]
    pub event_id: Uuid,
    /// The caller.
    #[diesel(sql_type = Nullable<Binary>)]
    pub key: Option<Vec<u8>>,
    /// The event as JSON, the same bytes at each repeat.
    #[diesel(sql_type = Binary)]
    pub value: Vec<u8>,
    /// `ce_time`.
    #[diesel(sql_type = Text)]
    pub event_time: String,
}

impl Store {
    /// Publishes some waiting events: locks them against other instances, lets `publish` say which of them
    /// the broker has, and removes those. Returns how many there were and how many the broker has. Killed
    /// in between, they are published again.
    pub async fn publish_expired(
        &self,
        most: i64,
        publish: impl for<'r> FnOnce(&'r [Expired]) -> BoxFuture<'r, Vec<Uuid>> + Send,
    ) -> Result<(usize, usize), Fault> {
        let mut connection = self.connection().await?;
        connection
            .transaction::<(usize, usize), Fault, _>(async |connection| {
                let waiting: Vec<Expired> = diesel::sql_query(
                    "SELECT event_id, key, value, event_time FROM ingest.outbox
                     ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED",
                )
                .bind::<BigInt, _>(most)
                .load(connection)
                .await?;
                if waiting.is_empty() {
                    return Ok((0, 0));
                }
                let published = publish(&waiting).await;
                diesel::sql_query("DELETE FROM ingest.outbox WHERE event_id = ANY($1)")
                    .bind::<Array<SqlUuid>, _>(&published)
                    .execute(connection)
                    .await?;
                Ok((waiting.len(), published.len()))
            })
            .await
    }
}

//! `ingest.instances`: one row for each running instance. Updating it proves that the database takes writes.

use diesel::sql_types::{Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{Fault, Store};

impl Store {
    /// Writes this instance's sign of life, and forgets instances that gave none for a day.
    pub async fn beat(&self, instance: Uuid, group: &str) -> Result<(), Fault> {
        let host = std::env::var("HOSTNAME").unwrap_or_default();
        let mut connection = self.connection().await?;
        diesel::sql_query(
            "WITH ended AS (
                DELETE FROM ingest.instances WHERE beat_at < (now() AT TIME ZONE 'utc') - INTERVAL '1 day')
             INSERT INTO ingest.instances (id, group_id, host, version) VALUES ($1, $2, $3, $4)
             ON CONFLICT (id) DO UPDATE SET beat_at = now() AT TIME ZONE 'utc'",
        )
        .bind::<SqlUuid, _>(instance)
        .bind::<Text, _>(group)
        .bind::<Text, _>(host)
        .bind::<Text, _>(env!("CARGO_PKG_VERSION"))
        .execute(&mut connection)
        .await?;
        Ok(())
    }

    /// Removes the row of an instance that ends.
    pub async fn end_instance(&self, instance: Uuid) -> Result<(), Fault> {
        let mut connection = self.connection().await?;
        diesel::sql_query("DELETE FROM ingest.instances WHERE id = $1")
            .bind::<SqlUuid, _>(instance)
            .execute(&mut connection)
            .await?;
        Ok(())
    }
}

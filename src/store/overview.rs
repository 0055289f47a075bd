//! The contents of the tables for a person: counts, and a few rows as text. Raw SQL, as the tables come from a list.

use diesel::sql_types::{BigInt, Text};
use diesel_async::RunQueryDsl;

pub use super::tables::TABLES;
use super::{Fault, Store};

/// Counts of everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// Rows of each of [`TABLES`], in their order.
    pub rows: Vec<i64>,
    /// Sum of the stored offsets of the group's partitions.
    pub consumed: i64,
    /// Cache rows that have expired.
    pub expired: i64,
    /// Cache rows past their time that the expiry has not reached yet.
    pub overdue: i64,
    /// `clone.expired` events that are not published yet.
    pub outbox: i64,
    /// Dead letters.
    pub dead_letters: i64,
    /// Dead letters that are not published yet.
    pub unpublished: i64,
}

#[derive(diesel::QueryableByName)]
struct TableCount {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

#[derive(diesel::QueryableByName)]
struct OverviewRow {
    #[diesel(sql_type = Text)]
    row: String,
}

impl Store {
    /// Counts everything in one statement, and so in one snapshot. `group` is the consumer group whose positions
    /// count.
    pub async fn overview(&self, group: &str) -> Result<Overview, Fault> {
        let mut parts: Vec<String> =
            TABLES.iter().map(|table| format!("(SELECT count(*) FROM public.{table})")).collect();
        parts.extend(
            [
                "(SELECT coalesce(sum(next_offset), 0)::bigint FROM ingest.consumer_offsets WHERE group_id = $1)",
                "(SELECT count(*) FROM public.voice_clone_cache WHERE deleted_at IS NOT NULL)",
                "(SELECT count(*) FROM public.voice_clone_cache
                  WHERE deleted_at IS NULL AND ttl_expires_at <= now() AT TIME ZONE 'utc')",
                "(SELECT coalesce(sum(cardinality(ids)), 0)::bigint FROM ingest.outbox)",
                "(SELECT count(*) FROM ingest.dead_letters)",
                "(SELECT count(*) FROM ingest.dead_letters WHERE published_at IS NULL)",
            ]
            .map(str::to_owned),
        );
        let statement = format!(
            "SELECT count FROM unnest(ARRAY[{}]) WITH ORDINALITY AS c (count, place) ORDER BY place",
            parts.join(", ")
        );
        let mut connection = self.connection().await?;
        let mut counts = diesel::sql_query(statement)
            .bind::<Text, _>(group)
            .load::<TableCount>(&mut connection)
            .await?
            .into_iter()
            .map(|row| row.count);
        let rows = counts.by_ref().take(TABLES.len()).collect();
        let mut next = || counts.next().unwrap_or_default();
        Ok(Overview {
            rows,
            consumed: next(),
            expired: next(),
            overdue: next(),
            outbox: next(),
            dead_letters: next(),
            unpublished: next(),
        })
    }

    /// At most `most` rows of a table, each as the text of a JSON object. The table's name becomes part of the
    /// statement. Only names in this program may be given, hence `'static`.
    pub async fn sample(&self, table: &'static str, most: i64) -> Result<Vec<String>, Fault> {
        let mut connection = self.connection().await?;
        let rows = diesel::sql_query(format!(
            "SELECT to_jsonb(t)::text AS row FROM {table} t ORDER BY t.id LIMIT $1"
        ))
        .bind::<BigInt, _>(most)
        .load::<OverviewRow>(&mut connection)
        .await?;
        Ok(rows.into_iter().map(|row| row.row).collect())
    }
}

//! Writes a batch in one transaction: offsets first, as the fence; then the tables in a fixed order, each with its
//! locks first and its rows in one statement (contract, sections 4 and 7).

mod calls;
mod facts;
mod lookup;
mod mappings;
mod merged;
mod newest;
mod rehearsal;
mod voices;

use std::collections::{BTreeMap, HashSet};

use diesel::connection::CacheSize;
use diesel::pg::data_types::PgTimestamp;
use diesel::sql_types::{Array, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use uuid::Uuid;

use super::dead_letters::{self, DeadLetter, KnownLetters};
use super::offsets::{self, Advance};
use super::unnest::{Column, ReturningCounts, ReturningIds, Statement, Unnest, from_timestamp};
use super::{Fault, Store};
use crate::event::{Time, Unusable};
use crate::fold::Latest;
use crate::plan::Plan;
use crate::record::TopicPartition;

pub(super) use lookup::LookupPolicies;
use lookup::{LookupPolicy, worth_writing};
pub use rehearsal::Rehearsal;

/// The outcome of a row. The greatest of several outcomes counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum RowOutcome {
    LeftAlone,
    Changed,
    Made,
}

/// How many rows of a table a transaction made, changed and left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub made: u64,
    pub changed: u64,
    pub left_alone: u64,
}

/// The outcome of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Row counts by table.
    pub counts: BTreeMap<&'static str, Counts>,
    /// Incoming rows by table, with their outcomes. A row listed twice counts by its greater outcome. Empty unless
    /// the [`Mode`] reports rows.
    pub rows: BTreeMap<&'static str, Vec<(Uuid, RowOutcome)>>,
    /// Number of new dead letters.
    pub dead_letters: u64,
    /// Number of unusable records, whether or not their dead letters are new. `Ingest` counts them.
    pub unusable: u64,
    /// Place and reason of each unusable record. Empty unless the [`Mode`] reports rows.
    pub refused: Vec<(TopicPartition, i64, Unusable)>,
}

impl Written {
    /// Adds the outcome of another write.
    pub fn add(&mut self, other: Written) {
        self.dead_letters += other.dead_letters;
        self.unusable += other.unusable;
        self.refused.extend(other.refused);
        for (table, counts) in other.counts {
            self.count(table, counts);
        }
        for (table, rows) in other.rows {
            self.rows.entry(table).or_default().extend(rows);
        }
    }

    fn count(&mut self, table: &'static str, counts: Counts) {
        let sum = self.counts.entry(table).or_default();
        sum.made += counts.made;
        sum.changed += counts.changed;
        sum.left_alone += counts.left_alone;
    }

    /// Counts `incoming` rows. Those neither `made` nor `changed` are left alone.
    fn count_rows(&mut self, table: &'static str, incoming: usize, made: usize, changed: usize) {
        if incoming == 0 {
            return;
        }
        let left_alone = incoming.saturating_sub(made + changed) as u64;
        self.count(table, Counts { made: made as u64, changed: changed as u64, left_alone });
    }

    fn note(&mut self, table: &'static str, rows: impl IntoIterator<Item = Uuid>, outcome: RowOutcome) {
        self.rows.entry(table).or_default().extend(rows.into_iter().map(|id| (id, outcome)));
    }

    fn record_outcomes<R>(
        &mut self,
        table: &'static str,
        incoming: &BTreeMap<Uuid, R>,
        (made, changed): UpsertedIds,
    ) {
        if incoming.is_empty() {
            return;
        }
        self.note(table, incoming.keys().copied(), RowOutcome::LeftAlone);
        self.note(table, made, RowOutcome::Made);
        self.note(table, changed, RowOutcome::Changed);
    }
}

/// The purpose of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The daemon: commits.
    Live,
    /// A replay: commits, and reports the outcome of each row.
    Replay,
    /// A dry run: reports the outcome of each row, and rolls back.
    Rehearse,
}

impl Store {
    /// Writes a batch in one transaction: all of it, or nothing.
    pub async fn write(
        &self,
        plan: &Plan<'_>,
        dead_letters: &[DeadLetter<'_>],
        advances: &[Advance],
        mode: Mode,
    ) -> Result<Written, Fault> {
        let (mut connection, mut result) = loop {
            let mut connection = self.unchecked_connection().await?;
            connection.set_in_transaction(true);
            let (lookups, letters, reports_rows) = (&*self.lookups, &*self.letters, mode != Mode::Live);
            let context =
                WriteContext { connection: &connection, begins: true, lookups, letters, reports_rows };
            // in one round trip: `try_join!` polls the check first, which sends it first
            let write = async { Ok(write_all(context, plan, dead_letters, advances).await) };
            match futures_util::try_join!(connection.check(), write) {
                Ok(((), result)) => break (connection, result),
                // each closes a connection; in the end the pool has none
                Err(reason) => tracing::debug!(reason, "a connection failed its check; another one is taken"),
            }
        };
        if mode == Mode::Rehearse && result.is_ok() {
            result = rehearsal::check_deferred(&mut connection).await.and(result);
        }
        let commits = mode != Mode::Rehearse && result.is_ok();
        if commits && let Err(error) = connection.batch_execute("COMMIT").await {
            result = Err(error.into());
        } else if commits || connection.batch_execute("ROLLBACK").await.is_ok() {
            connection.set_in_transaction(false);
        }
        if let Err(fault) = &result {
            tracing::debug!(%fault, "a transaction was rolled back");
            forget_statements(&mut connection);
        }
        result
    }
}

/// Drops the connection's prepared statements, as a table may have been altered under them.
fn forget_statements(connection: &mut AsyncPgConnection) {
    connection.set_prepared_statement_cache_size(CacheSize::Disabled);
    connection.set_prepared_statement_cache_size(CacheSize::Unbounded);
}

/// A lock that somebody holds on one table must not block the partitions of the other tables: the transaction fails,
/// and is split. The limit is above `deadlock_timeout` (1 s), after which PostgreSQL detects a deadlock. This
/// statement is sent first, as preparing a statement already waits for a table's lock.
const SET_LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";

/// Limits the lock waits of the transaction, which it begins in the same round trip if none is open.
async fn open(context: WriteContext<'_>) -> Result<(), Fault> {
    let begin = if context.begins { "BEGIN; " } else { "" };
    Ok((&mut &*context.connection).batch_execute(&format!("{begin}{SET_LOCK_TIMEOUT}")).await?)
}

/// The shared context of a transaction's writes.
#[derive(Clone, Copy)]
struct WriteContext<'t> {
    /// Statements may be pipelined on it: sent without waiting for the answer to the one before.
    connection: &'t AsyncPgConnection,
    /// Whether the first statement begins the transaction.
    begins: bool,
    lookups: &'t LookupPolicies,
    letters: &'t KnownLetters,
    /// Whether [`Written::rows`] is wanted.
    reports_rows: bool,
}

/// Pipelined: independent statements are sent without waiting. The server still runs them in order, the opening first,
/// then the fence: `join!` polls its futures in order, and the first poll of the opening sends it.
async fn write_all(
    context: WriteContext<'_>,
    plan: &Plan<'_>,
    dead_letters: &[DeadLetter<'_>],
    advances: &[Advance],
) -> Result<Written, Fault> {
    let (opened, advanced, ready, failed, clone_log, voices, calls, mappings, inserted_letters) = futures_util::join!(
        open(context),
        offsets::advance(context.connection, advances),
        facts::write_ready(context, plan),
        facts::write_failed(context, plan),
        facts::write_clone_log(context, plan),
        voices::write(context, plan),
        calls::write(context, plan),
        mappings::write(context, plan),
        dead_letters::write(
            context.connection,
            context.letters,
            &plan.source,
            dead_letters,
            context.reports_rows
        ),
    );
    let mut written = Written::default();
    let mut faults: Vec<Fault> = opened.err().into_iter().collect();
    faults.extend(advanced.err().map(|fault| fault.on("consumer_offsets")));
    for (table, done) in [
        ("clone_ready_events", ready),
        ("clone_failed_events", failed),
        ("voice_clone_log", clone_log),
        ("clone_transfer_events", voices),
        ("call_log", calls),
        ("caller_voice_mapping", mappings),
    ] {
        match done {
            Ok(done) => written.add(done),
            Err(fault) => faults.push(fault.on(table)),
        }
    }
    match inserted_letters {
        Ok(count) => written.dead_letters = count,
        Err(fault) => faults.push(fault.on("dead_letters")),
    }
    Fault::root_cause(faults).map_or(Ok(written), Err)
}

/// The rows of a plan with their ids.
type IncomingRows<'p, R> = Vec<(Uuid, &'p R)>;

/// A table that is written by an upsert.
struct UpsertTable<'p, R> {
    name: &'static str,
    lookup: &'p LookupPolicy,
    /// The rows of the batch by id.
    incoming: &'p BTreeMap<Uuid, R>,
    /// The identity columns after `id`, in the order of the table's statements.
    identity: fn(&IncomingRows<'p, R>) -> Vec<Column<'p>>,
    /// The columns after the identity, which are compared with the stored row.
    compared: fn(&IncomingRows<'p, R>) -> Vec<Column<'p>>,
}

impl<'p, R> UpsertTable<'p, R> {
    /// The columns of a lookup.
    fn lookup_columns(&self, rows: &IncomingRows<'p, R>) -> Vec<Column<'p>> {
        let mut columns = vec![ids(rows)];
        columns.extend((self.compared)(rows));
        columns
    }

    /// The columns of an upsert. `extra` ones follow the compared ones.
    fn upsert_columns(&self, rows: &IncomingRows<'p, R>, extra: Vec<Column<'p>>) -> Vec<Column<'p>> {
        let mut columns = vec![ids(rows)];
        columns.extend((self.identity)(rows));
        columns.extend((self.compared)(rows));
        columns.extend(extra);
        columns
    }
}

fn ids<'p, R>(rows: &IncomingRows<'p, R>) -> Column<'p> {
    Column::Uuids(rows.iter().map(|(id, _)| *id).collect())
}

/// Ids of inserted rows, and of updated rows.
type UpsertedIds = (Vec<Uuid>, Vec<Uuid>);

/// Writes rows, and returns the ids of the inserted and of the updated ones.
async fn upsert_returning<'p, Upsert, R>(
    connection: &AsyncPgConnection,
    table: &UpsertTable<'p, R>,
    rows: &IncomingRows<'p, R>,
    extra: Vec<Column<'p>>,
) -> Result<UpsertedIds, Fault>
where
    Upsert: Statement<Row = ()> + Send + 'static,
{
    if rows.is_empty() {
        return Ok(UpsertedIds::default());
    }
    let upsert = Unnest::<Upsert>::new(table.upsert_columns(rows, extra));
    let (made, changed, unknown): (Vec<Uuid>, Vec<Uuid>, Vec<Uuid>) =
        ReturningIds(table.name, upsert).get_result(&mut &*connection).await?;
    if unknown.is_empty() {
        return Ok((made, changed));
    }
    // The rows of a partitioned table have their system columns in a query of their own.
    let inserted: Vec<InsertedRow> =
        sql_query(format!("SELECT id FROM public.{} WHERE id = ANY($1) AND xmax = 0", table.name))
            .bind::<Array<SqlUuid>, _>(&unknown)
            .load(&mut &*connection)
            .await?;
    let inserted: HashSet<Uuid> = inserted.into_iter().map(|row| row.id).collect();
    Ok(unknown.into_iter().partition(|id| inserted.contains(id)))
}

#[derive(QueryableByName)]
struct InsertedRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

/// Writes the rows of a table that are worth writing.
async fn upsert<'p, Upsert, R>(
    context: WriteContext<'_>,
    table: &UpsertTable<'p, R>,
    rows: &IncomingRows<'p, R>,
    extra: Vec<Column<'p>>,
) -> Result<Written, Fault>
where
    Upsert: Statement<Row = ()> + Send + 'static,
{
    let mut written = Written::default();
    let (made, changed) = if context.reports_rows {
        let upserted = upsert_returning::<Upsert, R>(context.connection, table, rows, extra).await?;
        let counts = (upserted.0.len(), upserted.1.len());
        written.record_outcomes(table.name, table.incoming, upserted);
        counts
    } else if rows.is_empty() {
        (0, 0)
    } else {
        let upsert = Unnest::<Upsert>::new(table.upsert_columns(rows, extra));
        let counts = ReturningCounts(table.name, upsert).get_result(&mut &*context.connection).await?;
        let (made, changed): (i64, i64) = counts;
        (usize::try_from(made).unwrap_or(0), usize::try_from(changed).unwrap_or(0))
    };
    written.count_rows(table.name, table.incoming.len(), made, changed);
    table.lookup.learn(table.incoming.len(), made + changed);
    Ok(written)
}

type StoredTime = Option<PgTimestamp>;

/// The event time of a stored value. A value of another tool's row, which no event gave, is older than all. A derived
/// value has no event time, and is no part of the fold.
fn latest<T>(value: Option<T>, at: StoredTime, adopted: bool) -> Latest<T> {
    match (at, adopted) {
        (Some(at), _) => value.map(|value| (from_timestamp(at), value)),
        (None, true) => value.map(|value| (Time::OLDER_THAN_ALL, value)),
        (None, false) => None,
    }
}

fn at<T>(latest: &Latest<T>) -> Option<Time> {
    latest.as_ref().map(|(at, _)| *at)
}

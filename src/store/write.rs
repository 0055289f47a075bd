//! A batch in one transaction: offsets first, as the fence; then the tables in one order, each with its
//! locks first and its rows in one statement (contract, sections 4 and 7).

mod calls;
mod facts;
mod mappings;
mod merged;
mod newest;
mod rehearsal;
mod voices;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use diesel::QueryResult;
use diesel::connection::CacheSize;
use diesel::pg::data_types::PgTimestamp;
use diesel::sql_types::Uuid as SqlUuid;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use uuid::Uuid;

use super::dead_letters::{self, DeadLetter, KnownLetters};
use super::offsets::{self, Advance};
use super::unnest::{Column, Counting, Statement, Telling, Unnest, from_timestamp};
use super::{Fault, Store};
use crate::event::{Time, Unusable};
use crate::fold::Latest;
use crate::plan::Plan;
use crate::record::TopicPartition;

pub use rehearsal::Rehearsal;

/// What a write did with a row; of several writes the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Did {
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

/// What a write did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// By table.
    pub counts: BTreeMap<&'static str, Counts>,
    /// By table: the rows that it met, by id; one that is there twice counts as the greater says. Only where
    /// that was asked for.
    pub rows: BTreeMap<&'static str, Vec<(Uuid, Did)>>,
    /// Dead letters that are new.
    pub dead_letters: u64,
    /// Records that cannot be used, whether or not their dead letters are new; `Ingest` counts them.
    pub unusable: u64,
    /// Place and fault of each record that cannot be used. Only where rows are asked for.
    pub refused: Vec<(TopicPartition, i64, Unusable)>,
}

impl Written {
    /// Adds what a further write did.
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

    /// Of so many rows that were met, so many were made and changed.
    fn count_met(&mut self, table: &'static str, met: usize, made: usize, changed: usize) {
        if met == 0 {
            return;
        }
        let left_alone = met.saturating_sub(made + changed) as u64;
        self.count(table, Counts { made: made as u64, changed: changed as u64, left_alone });
    }

    fn note(&mut self, table: &'static str, rows: impl IntoIterator<Item = Uuid>, did: Did) {
        self.rows.entry(table).or_default().extend(rows.into_iter().map(|id| (id, did)));
    }

    fn tell<R>(&mut self, table: &'static str, met: &BTreeMap<Uuid, R>, (made, changed): Touched) {
        if met.is_empty() {
            return;
        }
        self.note(table, met.keys().copied(), Did::LeftAlone);
        self.note(table, made, Did::Made);
        self.note(table, changed, Did::Changed);
    }
}

/// What a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The daemon's: commits.
    Live,
    /// A replay's: commits, and says what was done with each row.
    Replay,
    /// A dry run's: says what would be done with each row, and rolls back.
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
        let mut connection = self.connection().await?;
        let mut rehearsed = None;
        let result = connection
            .transaction::<Written, Fault, _>(async |connection| {
                let (habits, letters, tells) = (&*self.habits, &*self.letters, mode != Mode::Live);
                let target = Target { connection, habits, letters, tells };
                let written = write_all(target, plan, dead_letters, advances).await?;
                if mode == Mode::Rehearse {
                    rehearsal::check_deferred(connection).await?;
                    rehearsed = Some(written);
                    return Err(Fault::from(diesel::result::Error::RollbackTransaction));
                }
                Ok(written)
            })
            .await;
        if let Some(written) = rehearsed {
            return Ok(written);
        }
        if let Err(fault) = &result {
            tracing::debug!(%fault, "a transaction was rolled back");
            forget_statements(&mut connection);
        }
        result
    }
}

/// A table may have been altered under the connection's prepared statements: new ones are prepared.
fn forget_statements(connection: &mut AsyncPgConnection) {
    connection.set_prepared_statement_cache_size(CacheSize::Disabled);
    connection.set_prepared_statement_cache_size(CacheSize::Unbounded);
}

/// A lock that somebody holds on one table must not hold up the others' partitions: the transaction fails, and is split.
/// Above `deadlock_timeout` (1 s), after which PostgreSQL finds a deadlock. It is the first statement on its way, as a
/// table's lock is waited for by the preparation of the statements already.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '2s'";

async fn limit_lock_waits(connection: &AsyncPgConnection) -> Result<(), Fault> {
    Ok((&mut &*connection).batch_execute(LOCK_TIMEOUT).await?)
}

/// What the writes of a transaction share.
#[derive(Clone, Copy)]
struct Target<'t> {
    /// Whose statements may be sent without waiting for the answer to the one before.
    connection: &'t AsyncPgConnection,
    habits: &'t Habits,
    letters: &'t KnownLetters,
    /// Whether [`Written::rows`] is asked for.
    tells: bool,
}

/// What does not need another's outcome is on its way at once: the server takes one after the other, the fence first,
/// but it is not waited for each.
async fn write_all(
    target: Target<'_>,
    plan: &Plan<'_>,
    dead_letters: &[DeadLetter<'_>],
    advances: &[Advance],
) -> Result<Written, Fault> {
    let (limited, advanced, ready, failed, clone_log, voices, calls, mappings, diverted) = futures_util::join!(
        limit_lock_waits(target.connection),
        offsets::advance(target.connection, advances),
        facts::write_ready(target, plan),
        facts::write_failed(target, plan),
        facts::write_clone_log(target, plan),
        voices::write(target, plan),
        calls::write(target, plan),
        mappings::write(target, plan),
        dead_letters::write(target.connection, target.letters, &plan.source, dead_letters, target.tells),
    );
    let mut written = Written::default();
    let mut faults: Vec<Fault> = limited.err().into_iter().collect();
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
    match diverted {
        Ok(count) => written.dead_letters = count,
        Err(fault) => faults.push(fault.on("dead_letters")),
    }
    Fault::cause(faults).map_or(Ok(written), Err)
}

/// Whether the rows of a table are looked up before they are written. An upsert locks the row that it meets,
/// which writes WAL also where nothing changes; looking first costs a little where rows are new, and saves
/// most of the work where they are there, as when a topic is read again. So the last batch decides. Either
/// way the same rows come out: what a row has taken in once, it never loses.
#[derive(Debug, Default)]
struct Habit {
    looks_first: AtomicBool,
    is_partitioned: AtomicBool,
}

impl Habit {
    fn looks_first(&self) -> bool {
        AtomicBool::load(&self.looks_first, Ordering::Relaxed)
    }

    fn learn(&self, met: usize, touched: usize) {
        if met > 0 {
            self.looks_first.store(2 * touched < met, Ordering::Relaxed);
        }
    }
}

/// One for each table.
#[derive(Debug, Default)]
pub(super) struct Habits {
    ready: Habit,
    failed: Habit,
    clone_log: Habit,
    transfers: Habit,
    cache: Habit,
    calls: Habit,
    mappings: Habit,
}

/// The rows of a plan with their ids.
type Rows<'p, R> = Vec<(Uuid, &'p R)>;

/// A table that is written by an upsert.
struct Table<'p, R> {
    name: &'static str,
    habit: &'p Habit,
    /// What a batch says of its rows.
    met: &'p BTreeMap<Uuid, R>,
    /// The columns after `id` that say which row it is, in the order of the table's statements.
    identity: fn(&Rows<'p, R>) -> Vec<Column<'p>>,
    /// Those after them, which are compared with what is there.
    compared: fn(&Rows<'p, R>) -> Vec<Column<'p>>,
}

impl<'p, R> Table<'p, R> {
    /// Those that a look compares.
    fn looked_at(&self, rows: &Rows<'p, R>) -> Vec<Column<'p>> {
        let mut columns = vec![ids(rows)];
        columns.extend((self.compared)(rows));
        columns
    }

    /// Those of an upsert. `further` come after the compared ones.
    fn written(&self, rows: &Rows<'p, R>, further: Vec<Column<'p>>) -> Vec<Column<'p>> {
        let mut columns = vec![ids(rows)];
        columns.extend((self.identity)(rows));
        columns.extend((self.compared)(rows));
        columns.extend(further);
        columns
    }
}

fn ids<'p, R>(rows: &Rows<'p, R>) -> Column<'p> {
    Column::Uuids(rows.iter().map(|(id, _)| *id).collect())
}

/// Those rows that would make or change something. `Look` gives the ids of such; without the habit of
/// looking first, all.
async fn worth_writing<'p, Look, R>(
    connection: &AsyncPgConnection,
    table: &Table<'p, R>,
) -> Result<Rows<'p, R>, Fault>
where
    Look: Statement<Row = SqlUuid> + Send + 'static,
{
    let all: Rows<R> = table.met.iter().map(|(id, row)| (*id, row)).collect();
    if all.is_empty() || !table.habit.looks_first() {
        return Ok(all);
    }
    let ids: Vec<Uuid> = Unnest::<Look>::new(table.looked_at(&all)).load(&mut &*connection).await?;
    let ids: HashSet<Uuid> = ids.into_iter().collect();
    Ok(all.into_iter().filter(|(id, _)| ids.contains(id)).collect())
}

/// Ids of rows made, and of rows changed.
type Touched = (Vec<Uuid>, Vec<Uuid>);

/// Writes rows, and says which it made and which it changed.
async fn touch<'p, Upsert, R>(
    connection: &AsyncPgConnection,
    table: &Table<'p, R>,
    rows: &Rows<'p, R>,
    further: Vec<Column<'p>>,
) -> Result<Touched, Fault>
where
    Upsert: Statement<Row = ()> + Send + 'static,
{
    if rows.is_empty() {
        return Ok(Touched::default());
    }
    Ok(Telling(Unnest::<Upsert>::new(table.written(rows, further))).get_result(&mut &*connection).await?)
}

/// Writes those rows of a table that are worth it.
async fn upsert<'p, Upsert, R>(
    target: Target<'_>,
    table: &Table<'p, R>,
    worth: &Rows<'p, R>,
    further: Vec<Column<'p>>,
) -> Result<Written, Fault>
where
    Upsert: Statement<Row = ()> + Send + 'static,
{
    let mut written = Written::default();
    let (made, changed) = if target.tells {
        let touched = touch::<Upsert, R>(target.connection, table, worth, further).await?;
        let counts = (touched.0.len(), touched.1.len());
        written.tell(table.name, table.met, touched);
        counts
    } else if worth.is_empty() {
        (0, 0)
    } else {
        counted(target.connection, table, Unnest::<Upsert>::new(table.written(worth, further))).await?
    };
    written.count_met(table.name, table.met.len(), made, changed);
    table.habit.learn(table.met.len(), made + changed);
    Ok(written)
}

/// Executes an upsert, and returns how many rows it inserted and updated. PostgreSQL refuses to tell them apart in a
/// partitioned table: the transaction fails once, and from then on all rows of that table count as inserted.
async fn counted<Upsert, R>(
    connection: &AsyncPgConnection,
    table: &Table<'_, R>,
    upsert: Unnest<'_, Upsert>,
) -> Result<(usize, usize), Fault>
where
    Upsert: Statement<Row = ()> + Send + 'static,
{
    if AtomicBool::load(&table.habit.is_partitioned, Ordering::Relaxed) {
        return Ok((upsert.execute(&mut &*connection).await?, 0));
    }
    let counts: QueryResult<(i64, i64)> = Counting(upsert).get_result(&mut &*connection).await;
    if let Err(error) = &counts
        && error.to_string().contains("cannot retrieve a system column")
    {
        table.habit.is_partitioned.store(true, Ordering::Relaxed);
    }
    let (inserted, updated) = counts?;
    Ok((usize::try_from(inserted).unwrap_or(0), usize::try_from(updated).unwrap_or(0)))
}

type At = Option<PgTimestamp>;

/// The event time of a stored value. One that no event gave, of a row that another tool made, is older
/// than all; one that is derived has no event time and is no value of the fold.
fn latest<T>(value: Option<T>, at: At, adopted: bool) -> Latest<T> {
    match (at, adopted) {
        (Some(at), _) => value.map(|value| (from_timestamp(at), value)),
        (None, true) => value.map(|value| (Time::OLDER_THAN_ALL, value)),
        (None, false) => None,
    }
}

fn at<T>(latest: &Latest<T>) -> Option<Time> {
    latest.as_ref().map(|(at, _)| *at)
}

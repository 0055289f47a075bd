//! Whether rows are looked up before they are written, and the lookup.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use diesel::sql_types::Uuid as SqlUuid;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::super::Fault;
use super::super::unnest::{Statement, Unnest};
use super::{IncomingRows, UpsertTable};

/// Whether the rows of a table are looked up before they are written. An upsert locks the row that it meets, which
/// writes WAL even if nothing changes. Looking first costs a little if rows are new, and saves most of the work if
/// they exist, as when a topic is read again. The last batch decides. Either way the rows are the same: a row never
/// loses what it has taken in.
#[derive(Debug, Default)]
pub(super) struct LookupPolicy {
    looks_first: AtomicBool,
}

impl LookupPolicy {
    pub fn looks_first(&self) -> bool {
        AtomicBool::load(&self.looks_first, Ordering::Relaxed)
    }

    pub fn learn(&self, incoming: usize, upserted: usize) {
        if incoming > 0 {
            self.looks_first.store(2 * upserted < incoming, Ordering::Relaxed);
        }
    }
}

/// One policy for each table.
#[derive(Debug, Default)]
pub(in crate::store) struct LookupPolicies {
    pub(super) ready: LookupPolicy,
    pub(super) failed: LookupPolicy,
    pub(super) clone_log: LookupPolicy,
    pub(super) transfers: LookupPolicy,
    pub(super) cache: LookupPolicy,
    pub(super) calls: LookupPolicy,
    pub(super) mappings: LookupPolicy,
}

/// The rows that would make or change something. `Look` returns their ids. Without a lookup, all rows count.
pub(super) async fn worth_writing<'p, Look, R>(
    connection: &AsyncPgConnection,
    table: &UpsertTable<'p, R>,
) -> Result<IncomingRows<'p, R>, Fault>
where
    Look: Statement<Row = SqlUuid> + Send + 'static,
{
    let all: IncomingRows<R> = table.incoming.iter().map(|(id, row)| (*id, row)).collect();
    if all.is_empty() || !table.lookup.looks_first() {
        return Ok(all);
    }
    let ids: Vec<Uuid> = Unnest::<Look>::new(table.lookup_columns(&all)).load(&mut &*connection).await?;
    let ids: HashSet<Uuid> = ids.into_iter().collect();
    Ok(all.into_iter().filter(|(id, _)| ids.contains(id)).collect())
}

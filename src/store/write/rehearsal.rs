//! Writes that are rolled back. A trial uses them to ask PostgreSQL whether it takes a record.

use diesel::result::Error;
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};

use super::super::connect::Pooled;
use super::super::dead_letters::KnownLetters;
use super::super::fault::{Refusal, Rule};
use super::super::{Fault, Store, rights};
use super::{Advance, LookupPolicies, WriteContext, forget_statements, newest, write_all};
use crate::event::Event;
use crate::plan::Plan;
use crate::record::Topic;

/// One session for a trial.
pub struct Rehearsal<'s> {
    connection: Pooled<'s>,
}

impl Store {
    /// A session for a trial.
    pub async fn rehearsal(&self) -> Result<Rehearsal<'_>, Fault> {
        Ok(Rehearsal { connection: self.connection().await? })
    }
}

impl Rehearsal<'_> {
    /// Writes the plans in order in one transaction, which is rolled back.
    pub async fn write(&mut self, plans: &[Plan<'_>], advances: &[Advance]) -> Result<(), Fault> {
        // The last batches say nothing about these rows: all are written, and none is looked up first.
        let (lookups, letters) = (LookupPolicies::default(), KnownLetters::default());
        let mut taken = false;
        let result = self
            .connection
            .transaction::<(), Fault, _>(async |connection| {
                let context = WriteContext {
                    connection,
                    begins: false,
                    lookups: &lookups,
                    letters: &letters,
                    reports_rows: false,
                };
                let mut advances = advances;
                for plan in plans {
                    write_all(context, plan, &[], std::mem::take(&mut advances)).await?;
                }
                check_deferred(connection).await?;
                taken = true;
                Err(Fault::from(Error::RollbackTransaction))
            })
            .await;
        if taken {
            return Ok(());
        }
        if let Err(fault) = &result {
            tracing::debug!(%fault, "a trial was refused");
        }
        forget_statements(&mut self.connection);
        result
    }

    /// The event of the topic's newest stored row; `None` where the table is empty.
    pub async fn newest(&mut self, topic: Topic) -> Result<Option<Event<'static>>, Fault> {
        newest::newest(&mut self.connection, topic).await
    }

    /// A refusal that looks like one by the bounds of partitions and is a trigger's, if the table has no partitions.
    pub async fn confirmed(&mut self, refusal: Refusal) -> Result<Refusal, Fault> {
        let table = refusal.table.as_deref().filter(|_| refusal.rule == Rule::Partitions);
        match table {
            Some(table) if !rights::is_partitioned(&mut self.connection, table).await? => {
                Ok(Refusal { rule: Rule::Check, ..refusal })
            }
            _ => Ok(refusal),
        }
    }

    /// Whether the server's error messages are in English, in which `fault` knows them.
    pub async fn messages_are_english(&mut self) -> Result<bool, Fault> {
        Ok(rights::messages_are_english(&mut self.connection).await?)
    }
}

/// Checks deferred constraints and triggers now, as a rollback would never run them.
pub(super) async fn check_deferred(connection: &mut AsyncPgConnection) -> Result<(), Fault> {
    Ok(connection.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?)
}

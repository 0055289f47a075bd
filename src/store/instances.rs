//! `ingest.instances`: one row for each running instance. Updating it proves that the database takes writes.

use diesel::dsl::IntervalDsl as _;
use diesel::prelude::*;
use diesel::sql_types::{Jsonb, Text};
use diesel::upsert::excluded;
use diesel_async::RunQueryDsl;
use serde::Serialize;
use uuid::Uuid;

use super::sql::now_utc;
use super::{Fault, Store};
use crate::schema::ingest::instances;

/// Maximum number of waiting partitions that an instance names.
const WAITING_MAX: usize = 100;

impl Store {
    /// Writes this instance's heartbeat with its member id and what its partitions wait for, and forgets instances that
    /// gave none for a day.
    pub async fn beat(
        &self,
        instance: Uuid,
        group: &str,
        member: Option<&str>,
        waiting: &[impl Serialize],
    ) -> Result<(), Fault> {
        let host = host(std::env::var("HOSTNAME").ok());
        let mut connection = self.connection().await?;
        diesel::insert_into(instances::table)
            .values((
                instances::id.eq(instance),
                instances::group_id.eq(group),
                instances::host.eq(host),
                instances::version.eq(env!("CARGO_PKG_VERSION")),
                instances::waiting.eq(json(waiting).into_sql::<Text>().fallible_cast::<Jsonb>()),
                instances::member_id.eq(member),
            ))
            .on_conflict(instances::id)
            .do_update()
            .set((
                instances::beat_at.eq(now_utc()),
                instances::waiting.eq(excluded(instances::waiting)),
                instances::member_id.eq(excluded(instances::member_id)),
            ))
            .execute(&mut connection)
            .await?;
        let silent = instances::beat_at.lt(now_utc() - 1.day());
        diesel::delete(instances::table.filter(silent)).execute(&mut connection).await?;
        Ok(())
    }

    /// Removes the row of an instance that ends.
    pub async fn end_instance(&self, instance: Uuid) -> Result<(), Fault> {
        let mut connection = self.connection().await?;
        diesel::delete(instances::table.find(instance)).execute(&mut connection).await?;
        Ok(())
    }
}

/// The name of this host or container: `HOSTNAME`, or what the system calls it, as services have no such variable.
fn host(variable: Option<String>) -> String {
    let system = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    variable.filter(|name| !name.is_empty()).unwrap_or_else(system)
}

/// A JSON array of the first `WAITING_MAX` items. `jsonb` takes no NUL character.
fn json(waiting: &[impl Serialize]) -> String {
    let first: Vec<_> = waiting.iter().take(WAITING_MAX).collect();
    serde_json::to_string(&first).unwrap_or_else(|_| "[]".to_owned()).replace("\\u0000", "")
}

#[cfg(test)]
mod tests {
    use super::{host, json};

    #[test]
    fn an_instance_has_the_name_of_its_host_with_and_without_a_variable_for_it() {
        assert_eq!(host(Some("pod-7".to_owned())), "pod-7");
        for unset in [None, Some(String::new())] {
            let name = host(unset);
            assert!(!name.is_empty() && !name.contains('\0'), "{name:?}");
        }
    }

    #[test]
    fn the_first_hundred_partitions_are_named_without_what_jsonb_does_not_take() {
        let waiting: Vec<String> = (0..1000).map(|number| format!("{number}\0")).collect();
        let written: Vec<String> = serde_json::from_str(&json(&waiting)).unwrap();
        assert_eq!((written.len(), written[99].as_str()), (100, "99"));
        assert_eq!(json(&[""; 0]), "[]");
    }
}

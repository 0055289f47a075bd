//! A table that refuses good rows for a while, and an instance behind a pooler. No record becomes a dead letter because of
//! them.

use super::faults::Lasting;
use super::stage::{PASSWORD, ROLE, Stage};
use crate::support::left_out;
use crate::support::pgbouncer::PgBouncer;

impl Stage {
    /// At most one at a time, so that each is undone by its own statement.
    pub(super) fn drift(&mut self) {
        if self.round().lasting.iter().any(|(_, lasting)| matches!(lasting, Lasting::Drift(_))) {
            return;
        }
        let table = self.dice.pick(&[
            "public.voice_clone_log",
            "public.voice_clone_cache",
            "public.clone_transfer_events",
            "public.call_log",
        ]);
        let (make, undo) = self.dice.pick(&[
            ("ADD CONSTRAINT fire_drift CHECK (false) NOT VALID", "DROP CONSTRAINT fire_drift"),
            ("ADD COLUMN fire_drift integer NOT NULL DEFAULT 0", "DROP COLUMN fire_drift"),
            ("RENAME COLUMN id TO fire_drift", "RENAME COLUMN fire_drift TO id"),
        ]);
        let mut sql = format!("ALTER TABLE {table} {make}");
        if make.starts_with("ADD COLUMN") {
            sql = format!("BEGIN; {sql}; ALTER TABLE {table} ALTER COLUMN fire_drift DROP DEFAULT; COMMIT");
        }
        if self.other_session(&sql) {
            self.report.add("tables that took no good row for a while", 1);
            let millis = self.dice.pick(&[1000, 5000, 9000]);
            self.last(millis, Lasting::Drift(format!("ALTER TABLE {table} {undo}")));
        }
    }

    /// The pooler stays until its database is gone, or until no session may be left.
    pub(super) fn pooled(&mut self) {
        if self.round().pooler.is_none() {
            match PgBouncer::start_for(&self.round().scene.database, "session", ROLE, PASSWORD) {
                Ok(pooler) => self.round().pooler = Some(pooler),
                Err(why) => return left_out::note(&format!("the pooler of {}", self.name), &why),
            }
        }
        let database = self.round().database.clone();
        let url = self.round().pooler.as_ref().unwrap().url_of(&database);
        self.start_instance_with(&[("DATABASE_URL", &url)]);
        self.report.add("instances behind a pooler", 1);
        if self.round().instances.len() > 4 {
            let mut other = self.round().instances.remove(0);
            if other.halted {
                other.daemon.signal(crate::support::processes::Signal::Cont);
            }
            self.forget_halt(&other.name.clone());
            self.end_in_order(&mut other);
        }
    }
}

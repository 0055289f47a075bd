//! A fail-over: a standby that lacks the last commits is promoted, and the database's address leads to it.

use super::stage::Stage;
use crate::support::postgres::{Database, PrivateServer};
use crate::support::wait::{SOON, eventually, eventually_eq};

/// The server before a fail-over, with the round's database as it was there.
pub struct Former {
    server: PrivateServer,
    database: Database,
    /// Whether it runs on, without taking writes.
    runs: bool,
}

impl Stage {
    /// The old primary crashes, or keeps its connections and takes no more writes.
    pub(super) fn fail_over(&mut self) {
        let began = chrono::Utc::now().timestamp_micros();
        let standby = PrivateServer::standby_of(&self.server);
        let on_standby = self.round().scene.database.on_standby(&standby);
        let receivers =
            || on_standby.value("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'");
        eventually_eq(SOON * 2, "the standby's receivers", "1".to_owned(), receivers);
        on_standby.run("ALTER SYSTEM SET primary_conninfo = ''");
        on_standby.run("SELECT pg_reload_conf()");
        eventually_eq(SOON, "the standby's receivers", "0".to_owned(), receivers);
        self.pass(2000);
        let read = |database: &Database| -> u64 {
            let sql = "SELECT COALESCE(sum(next_offset), 0)::bigint FROM ingest.consumer_offsets";
            database.value(sql).parse().unwrap()
        };
        let lost = read(&self.round().scene.database).saturating_sub(read(&on_standby));
        self.report.add("records whose rows a fail-over lost", lost);
        let runs = self.dice.chance(500);
        if runs {
            self.round().scene.database.run("ALTER SYSTEM SET default_transaction_read_only = on");
            self.round().scene.database.run("SELECT pg_reload_conf()");
        } else {
            self.server.stop_immediately();
        }
        on_standby.run("SELECT pg_promote()");
        self.proxy.retarget(&standby.address());
        let server = std::mem::replace(&mut self.server, standby);
        let round = self.round();
        let database = std::mem::replace(&mut round.scene.database, on_standby);
        if let Some(pooler) = &mut round.pooler {
            pooler.repoint(&round.scene.database, "session");
        }
        round.dump = None;
        round.restores.push(began..chrono::Utc::now().timestamp_micros());
        self.formers.push(Former { server, database, runs });
    }

    /// The first server is the primary again, for the next round and its database.
    pub(super) fn fail_back(&mut self) {
        if self.formers.is_empty() {
            return;
        }
        let Former { server, database, runs } = self.formers.remove(0);
        self.formers.clear();
        self.server = server;
        if runs {
            database.run("ALTER SYSTEM RESET default_transaction_read_only");
            database.run("SELECT pg_reload_conf()");
            eventually(SOON, "the first server to take writes", || {
                match database.value("SHOW default_transaction_read_only").as_str() {
                    "off" => Ok(()),
                    other => Err(other.to_owned()),
                }
            });
        } else {
            self.server.start_again();
        }
        self.proxy.retarget(&self.server.address());
    }
}

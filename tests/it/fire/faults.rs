//! The kinds of faults. Some last for a while, and other faults strike meanwhile.

use std::time::{Duration, Instant};

use super::stage::{ROLE, Stage};
use crate::support::block_on;
use crate::support::kafka::Send;
use crate::support::left_out;
use crate::support::processes::Signal;
use crate::support::proxy::Mode;
use crate::support::scene::{self, TOPICS};
use crate::support::wait::{SOON, eventually};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// `kill -9` of an instance, and a new one.
    Killed,
    /// An instance halted for longer than the session timeout: the others have its partitions when it goes on.
    Halted,
    /// An additional instance.
    Comes,
    /// An instance ended by SIGTERM: exit status 0 within 10 s.
    Goes,
    /// PostgreSQL stopped, mostly as a crash does, and started.
    PostgresStopped,
    /// The instances' sessions ended one by one.
    BackendsTerminated,
    /// All connections to PostgreSQL cut, again and again.
    Cut,
    /// PostgreSQL far away.
    Delay,
    /// The server's direction of each connection ends, the client's does not.
    HalfClosed,
    /// Commits that succeed, without the client receiving the answer.
    AnswerToCommitLost,
    /// Commits that never reach the server, without the client noticing.
    CommitLost,
    /// Connections that look alive and are not, then cut.
    Stall,
    /// Another session has rows locked for a while.
    LockedRows,
    /// Another session locks what the instances lock, in the reverse order.
    Deadlock,
    /// Another session has a whole table locked.
    LockedTable,
    /// `statement_timeout` and its kin, too short for any batch, or too few connections for the instances.
    Timeouts,
    /// A table that refuses good rows: a constraint, a column or a right that somebody changed.
    Drift,
    /// An additional instance through a pooler in session mode, which ends later.
    Pooled,
    /// No byte left on PostgreSQL's disk. Where mounting is not permitted, a trigger that says so instead.
    DiskFull,
    /// The broker restarted in good order.
    BrokerStopped,
    /// The broker killed and started.
    BrokerKilled,
    /// The broker halted.
    BrokerHalted,
    /// All connections to the broker cut, again and again.
    KafkaCut,
    /// Connections to the broker that look alive and are not, then cut.
    KafkaStall,
    /// The topic of the dead letters deleted, and made again later.
    DeadLetterTopicGone,
    /// The topic `clone.expired` deleted, and made again later.
    ExpiredTopicGone,
    /// A topic deleted and recreated, once all of it was read, with fewer records than before, or more.
    TopicAnew,
    /// Retention runs past what was read, and past what was not.
    Retention,
    /// An operator sets the group's offsets in Kafka to anything.
    OffsetsReset,
    /// The group is deleted.
    GroupDeleted,
    /// A dump, which a later fault may restore.
    Dump,
    /// The database dropped and restored while no instance runs.
    RestoreStopped,
    /// The database restored under the running instances, in one transaction.
    RestoreInPlace,
    /// The database restored beside the live one, and put in its place under the running instances.
    RestoreRenamed,
    /// A standby that lacks the last commits becomes the primary.
    FailOver,
    /// Records deleted under consumers that have not read them, as another session has the table locked.
    DeletedUnread,
    /// One broker of three away: some leaders move, and some partitions are without one.
    BrokerAway,
    /// A topic deleted, not to come again in this round.
    TopicGone,
    /// Two static members with one `KAFKA_GROUP_INSTANCE_ID`, of which the second ends.
    Fenced,
    /// A quota that lets the instances fetch little.
    Quota,
    /// A batch that unpacks to more than the instances take, and an operator's `skip`.
    OversizeBatch,
    /// A run of bad records that stops their partition, and an operator's `dead-letters accept`.
    LimitReached,
    /// PostgreSQL stopped, and instances killed and started meanwhile.
    PostgresAwayMembersChange,
}

use Fault::*;

impl Fault {
    /// Faults of the instances, and between them and PostgreSQL.
    pub const NEAR_POSTGRES: [Fault; 18] = [
        Killed,
        Halted,
        Comes,
        Goes,
        PostgresStopped,
        BackendsTerminated,
        Cut,
        Delay,
        HalfClosed,
        AnswerToCommitLost,
        CommitLost,
        Stall,
        LockedRows,
        Deadlock,
        LockedTable,
        Timeouts,
        Drift,
        Pooled,
    ];

    /// Faults of the broker, its topics, and the offsets in it.
    pub const OF_KAFKA: [Fault; 11] = [
        BrokerStopped,
        BrokerKilled,
        BrokerHalted,
        KafkaCut,
        KafkaStall,
        DeadLetterTopicGone,
        ExpiredTopicGone,
        TopicAnew,
        Retention,
        OffsetsReset,
        GroupDeleted,
    ];

    /// Faults of the data in PostgreSQL.
    pub const OF_STORAGE: [Fault; 5] = [DiskFull, Dump, RestoreStopped, RestoreInPlace, RestoreRenamed];

    /// Faults of one partition, one broker of three, or one client.
    pub const PARTIAL: [Fault; 8] = [
        DeletedUnread,
        BrokerAway,
        TopicGone,
        Fenced,
        Quota,
        OversizeBatch,
        LimitReached,
        PostgresAwayMembersChange,
    ];

    /// A fail-over, and what an administrator of PostgreSQL may change under the instances.
    pub const OF_ADMINISTRATION: [Fault; 5] = [FailOver, Drift, Pooled, Timeouts, LockedTable];

    /// All kinds.
    pub fn all() -> Vec<Fault> {
        let lists =
            [&Self::NEAR_POSTGRES[..], &Self::OF_KAFKA, &Self::OF_STORAGE, &Self::PARTIAL, &[FailOver]];
        lists.concat()
    }

    /// Faults without requirements that do not last.
    pub const BRIEF: [Fault; 5] = [Killed, Comes, Goes, Cut, KafkaCut];

    /// Whether the fault needs everything else to be well when it strikes.
    pub fn wants_calm(self) -> bool {
        matches!(
            self,
            TopicAnew
                | Retention
                | OffsetsReset
                | GroupDeleted
                | Dump
                | RestoreStopped
                | RestoreInPlace
                | RestoreRenamed
                | FailOver
                | DeadLetterTopicGone
                | ExpiredTopicGone
                | DeletedUnread
                | BrokerAway
                | TopicGone
                | OversizeBatch
                | LimitReached
                | PostgresAwayMembersChange
        )
    }

    /// Whether the fault needs a PostgreSQL that answers.
    fn wants_postgres(self) -> bool {
        matches!(
            self,
            PostgresStopped
                | BackendsTerminated
                | AnswerToCommitLost
                | CommitLost
                | LockedRows
                | Deadlock
                | LockedTable
                | Timeouts
                | Drift
                | DiskFull
        )
    }

    fn wants_broker(self) -> bool {
        matches!(self, BrokerStopped | BrokerKilled | BrokerHalted)
    }
}

/// A lasting fault, by how it ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Lasting {
    /// An instance goes on.
    Halted(String),
    /// Bytes to and from PostgreSQL pass again.
    Proxy,
    /// Bytes to and from the broker pass again.
    KafkaProxy,
    /// PostgreSQL is started.
    PostgresDown,
    /// The broker is started.
    BrokerDown,
    /// The broker goes on.
    BrokerHalted,
    /// The role's settings and its limit of connections are what they were.
    Timeouts,
    /// The table is as the migrations made it: the statement that undoes the drift.
    Drift(String),
    /// The disk is freed.
    DiskFull,
    /// The topic is made.
    TopicGone(String),
    /// The broker with this node id is started, or goes on where it was halted.
    BrokerAway(i32),
    /// The quota is lifted.
    Quota,
}

impl Lasting {
    /// Whether PostgreSQL does not answer meanwhile.
    pub fn stops_postgres(&self) -> bool {
        matches!(self, Lasting::PostgresDown | Lasting::DiskFull)
    }

    /// Whether the broker does not.
    pub fn stops_broker(&self) -> bool {
        matches!(self, Lasting::BrokerDown | Lasting::BrokerHalted | Lasting::BrokerAway(_))
    }
}

impl Stage {
    /// Injects a fault, once those that it cannot overlap with are over.
    pub fn strike(&mut self, fault: Fault) {
        let pause = 200 + self.dice.below(1000);
        self.pass(pause);
        self.lift(|_, due| due <= Instant::now());
        if fault.wants_calm() {
            self.lift_all();
        }
        if fault.wants_postgres() {
            self.lift_when_due(Lasting::stops_postgres);
        }
        if fault.wants_broker() {
            self.lift_when_due(Lasting::stops_broker);
        }
        self.look_after_instances();
        self.hold_or_let_go();
        eprintln!("fire: {:.1?}: {fault:?}", self.elapsed());
        self.report.add("faults", 1);
        self.report.add(&format!("faults: {fault:?}"), 1);
        match fault {
            Killed => {
                let count = self.round().instances.len() as u64;
                let at = self.dice.below(count) as usize;
                let mut instance = self.round().instances.remove(at);
                self.forget_halt(&instance.name);
                self.count_metrics(&instance);
                instance.daemon.signal(Signal::Kill);
                instance.daemon.wait_exit(SOON);
                self.start_instance();
            }
            Halted => {
                if let Some(at) = self.any_running() {
                    let instance = &mut self.round().instances[at];
                    instance.daemon.signal(Signal::Stop);
                    instance.halted = true;
                    let name = instance.name.clone();
                    self.last(7000 + pause * 2, Lasting::Halted(name));
                }
            }
            Comes => {
                if self.round().instances.len() < 4 {
                    self.start_instance();
                }
            }
            Goes => {
                let running = self.round().instances.iter().filter(|instance| !instance.halted).count();
                if let Some(at) = self.any_running().filter(|_| running > 1) {
                    let mut instance = self.round().instances.remove(at);
                    self.end_in_order(&mut instance);
                }
            }
            PostgresStopped => {
                if self.dice.chance(750) {
                    self.server.stop_immediately()
                } else {
                    self.server.stop()
                }
                let millis = self.dice.pick(&[200, 1000, 3000, 6000]);
                self.last(millis, Lasting::PostgresDown);
            }
            BackendsTerminated => {
                for _ in 0..10 {
                    self.terminate(Some(2));
                    let millis = self.dice.below(300);
                    self.pass(millis);
                }
            }
            Cut => {
                for _ in 0..5 {
                    let cut = self.proxy.cut();
                    self.report.add("connections to PostgreSQL cut", cut);
                    let millis = self.dice.below(600);
                    self.pass(millis);
                }
            }
            HalfClosed => {
                for _ in 0..3 {
                    self.proxy.halve();
                    let millis = self.dice.below(600);
                    self.pass(millis);
                }
                self.last(1500, Lasting::Proxy);
            }
            Delay => {
                let delay = Duration::from_millis(self.dice.pick(&[5, 20, 100]));
                self.change_proxy(Mode::Delay(delay), 3000);
            }
            AnswerToCommitLost => self.lose_commits(Mode::LoseAnswerToCommit),
            CommitLost => self.lose_commits(Mode::LoseCommit),
            Stall => self.change_proxy(Mode::Stall, 2000 + pause * 3),
            LockedRows => {
                let table = self.dice.pick(&[
                    ("public.call_log", "id"),
                    ("ingest.voices", "cloned_voice_id"),
                    ("ingest.calls", "call_id"),
                    ("public.voice_clone_cache", "id"),
                    ("ingest.consumer_offsets", "topic"),
                ]);
                self.other_session(&format!(
                    "BEGIN; SELECT 1 FROM {} ORDER BY {} DESC LIMIT 500 FOR UPDATE; SELECT pg_sleep(1.2); COMMIT",
                    table.0, table.1
                ));
            }
            Deadlock => {
                let rows = "SELECT 1 FROM ingest.calls ORDER BY call_id DESC LIMIT 2000 FOR UPDATE";
                let table = "LOCK TABLE ingest.voices IN EXCLUSIVE MODE";
                for first in [rows, table, rows, table] {
                    self.other_session(&format!(
                        "BEGIN; {first};
                         SELECT pg_sleep(0.25);
                         SELECT 1 FROM ingest.voices ORDER BY cloned_voice_id DESC LIMIT 2000 FOR UPDATE;
                         SELECT 1 FROM ingest.consumer_offsets ORDER BY topic DESC, partition DESC FOR UPDATE;
                         COMMIT"
                    ));
                }
            }
            LockedTable => {
                let table = self.dice.pick(&[
                    "public.call_log",
                    "public.voice_clone_cache",
                    "ingest.voices",
                    "ingest.dead_letters",
                    "ingest.outbox",
                    "ingest.consumer_offsets",
                ]);
                self.other_session(&format!(
                    "BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(1.5); COMMIT"
                ));
            }
            Timeouts => {
                let setting = self.dice.pick(&[
                    "SET statement_timeout = '50ms'",
                    "SET statement_timeout = '5ms'",
                    "SET lock_timeout = '5ms'",
                    "SET idle_in_transaction_session_timeout = '2ms'",
                    "CONNECTION LIMIT 4",
                ]);
                self.server_run(&format!("ALTER ROLE {ROLE} {setting}"));
                self.terminate(None);
                self.last(3000, Lasting::Timeouts);
            }
            Drift => self.drift(),
            Pooled => self.pooled(),
            DiskFull => {
                if self.server.is_on_small_disk() {
                    self.server.fill_disk();
                } else {
                    self.note_played_disk();
                    self.round().scene.database.run(
                        "CREATE SCHEMA fire; GRANT USAGE ON SCHEMA fire TO public;
                         CREATE FUNCTION fire.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                            RAISE EXCEPTION 'could not extend file \"base/5/16384\": No space left on device'
                            USING ERRCODE = '53100'; END $$;
                         CREATE TRIGGER fire_full BEFORE INSERT OR UPDATE ON public.call_log
                            EXECUTE FUNCTION fire.full();
                         CREATE TRIGGER fire_full BEFORE INSERT OR UPDATE ON ingest.dead_letters
                            EXECUTE FUNCTION fire.full()",
                    );
                }
                self.last(4000, Lasting::DiskFull);
            }
            BrokerStopped | BrokerKilled => {
                if let Some(broker) = self.broker() {
                    if fault == BrokerKilled {
                        broker.kill()
                    } else {
                        broker.stop()
                    }
                    // The longest is longer than the daemon waits for a record to be taken.
                    let millis = self.dice.pick(&[0, 2000, 12_000]);
                    self.last(millis, Lasting::BrokerDown);
                }
            }
            BrokerHalted => {
                if let Some(broker) = self.broker() {
                    broker.signal(Signal::Stop);
                    let millis = self.dice.pick(&[2000, 8000]);
                    self.last(millis, Lasting::BrokerHalted);
                }
            }
            KafkaCut => {
                for _ in 0..5 {
                    let cut = self.kafka_proxy.as_ref().map_or(0, |proxy| proxy.cut());
                    self.report.add("connections to the broker cut", cut);
                    let millis = self.dice.below(600);
                    self.pass(millis);
                }
            }
            KafkaStall => {
                if let Some(proxy) = &self.kafka_proxy {
                    proxy.set(Mode::Stall);
                    let millis = self.dice.pick(&[2000, 8000]);
                    self.last(millis, Lasting::KafkaProxy);
                }
            }
            DeadLetterTopicGone => self.output_topic_gone("voiceclone.dead-letters", "ingest.dead_letters"),
            ExpiredTopicGone => self.output_topic_gone("clone.expired", "ingest.outbox"),
            TopicAnew => self.recreate_topic(),
            Retention => self.retention(),
            OffsetsReset | GroupDeleted => self.group_changed(fault == GroupDeleted),
            Dump => self.dump(),
            RestoreStopped | RestoreInPlace | RestoreRenamed => self.restore(fault),
            FailOver => self.fail_over(),
            DeletedUnread => self.deleted_unread(),
            BrokerAway => self.broker_away(),
            TopicGone => self.topic_gone(),
            Fenced => self.fenced(),
            Quota => self.quota(),
            OversizeBatch => self.oversize_batch(),
            LimitReached => self.limit_reached(),
            PostgresAwayMembersChange => self.postgres_away_members_change(),
        }
    }

    /// Whether a lasting fault goes on for this time from now.
    pub fn is_struck_for(&mut self, time: Duration) -> bool {
        self.round().lasting.iter().any(|(due, _)| *due > Instant::now() + time)
    }

    /// Ends all lasting faults, each when it is due.
    pub fn lift_all(&mut self) {
        self.lift_when_due(|_| true);
        self.proxy.set(Mode::Pass);
        self.wait_for_postgres();
    }

    fn lift_when_due(&mut self, which: impl Fn(&Lasting) -> bool) {
        let dues = self.round().lasting.iter().filter(|(_, lasting)| which(lasting)).map(|(due, _)| *due);
        if let Some(due) = dues.max() {
            self.pass(due.saturating_duration_since(Instant::now()).as_millis() as u64);
        }
        self.lift(|lasting, _| which(lasting));
    }

    fn lift(&mut self, which: impl Fn(&Lasting, Instant) -> bool) {
        let all = std::mem::take(&mut self.round().lasting);
        let (mut over, on): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(due, lasting)| which(lasting, *due));
        self.round().lasting = on;
        // The servers first: the others need them.
        over.sort_by_key(|(_, lasting)| !(lasting.stops_postgres() || lasting.stops_broker()));
        for (due, lasting) in over {
            self.end_of(due, lasting);
        }
    }

    fn end_of(&mut self, due: Instant, lasting: Lasting) {
        let is_down = |stage: &mut Stage, stops: fn(&Lasting) -> bool| {
            stage.round().lasting.iter().any(|(_, lasting)| stops(lasting))
        };
        match lasting {
            Lasting::Halted(name) => {
                let halted = self.round().instances.iter_mut().find(|instance| instance.name == name);
                if let Some(instance) = halted {
                    instance.daemon.signal(Signal::Cont);
                    instance.halted = false;
                }
            }
            Lasting::Proxy => {
                self.proxy.set(Mode::Pass);
                self.proxy.cut();
            }
            Lasting::KafkaProxy => {
                let proxy = self.kafka_proxy.as_ref().unwrap();
                proxy.cut();
                proxy.set(Mode::Pass);
            }
            Lasting::PostgresDown => self.server.start_again(),
            Lasting::BrokerDown => self.broker().unwrap().start_again(),
            Lasting::BrokerHalted => self.broker().unwrap().signal(Signal::Cont),
            // A fault that needs a server waits until it is back.
            Lasting::Timeouts if is_down(self, Lasting::stops_postgres) => {
                self.round().lasting.push((due, Lasting::Timeouts));
            }
            Lasting::TopicGone(topic) if is_down(self, Lasting::stops_broker) => {
                self.round().lasting.push((due, Lasting::TopicGone(topic)));
            }
            Lasting::Timeouts => {
                self.wait_for_postgres();
                self.server_run(&format!(
                    "ALTER ROLE {ROLE} RESET ALL; ALTER ROLE {ROLE} CONNECTION LIMIT -1"
                ));
                self.terminate(None);
            }
            Lasting::Drift(undo) if is_down(self, Lasting::stops_postgres) => {
                self.round().lasting.push((due, Lasting::Drift(undo)));
            }
            Lasting::Drift(undo) => {
                self.wait_for_postgres();
                // A deadlock with an instance may end it.
                let database = &self.round().scene.database;
                eventually(SOON * 2, "the end of the drift", || database.try_rows(&undo));
            }
            Lasting::DiskFull => {
                if self.server.is_on_small_disk() {
                    self.server.free_disk();
                } else {
                    self.round().scene.database.run("DROP SCHEMA fire CASCADE");
                }
            }
            Lasting::TopicGone(topic) => self.create_topic(&topic),
            Lasting::BrokerAway(id) => self.broker_back(id),
            Lasting::Quota => self.limit_fetching(1e12),
        }
    }

    pub(super) fn last(&mut self, millis: u64, lasting: Lasting) {
        let due = Instant::now() + Duration::from_millis(millis);
        self.round().lasting.push((due, lasting));
    }

    fn change_proxy(&mut self, mode: Mode, millis: u64) {
        self.lift(|lasting, _| *lasting == Lasting::Proxy);
        self.proxy.set(mode);
        self.last(millis, Lasting::Proxy);
    }

    /// Waits until the first commit is lost: lasting faults may block all commits for a while.
    fn lose_commits(&mut self, mode: Mode) {
        let (before, started) = (self.proxy.lost_commits(), Instant::now());
        self.change_proxy(mode, 20_000);
        while self.proxy.lost_commits() == before && started.elapsed() < Duration::from_secs(20) {
            self.pass(100);
        }
        self.change_proxy(mode, 1500);
    }

    fn note_played_disk(&mut self) {
        let what = "full disks played by a trigger, as mounting is not permitted";
        if self.report.count(what) == 0 {
            left_out::note(
                &format!("the full disk of {}", self.name),
                "mounting is not permitted; a trigger plays it",
            );
        }
        self.report.add(what, 1);
    }

    pub(super) fn forget_halt(&mut self, name: &str) {
        self.round().lasting.retain(|(_, lasting)| *lasting != Lasting::Halted(name.to_owned()));
    }

    /// A topic that is read and was not deleted for good, without prefix.
    pub(super) fn any_topic(&mut self) -> String {
        let round = self.round();
        let there: Vec<&str> =
            TOPICS.into_iter().filter(|topic| !round.deleted.contains(&round.scene.topic(topic))).collect();
        self.dice.pick(&there).to_owned()
    }

    fn any_running(&mut self) -> Option<usize> {
        let running: Vec<usize> =
            (0..self.round().instances.len()).filter(|at| !self.round().instances[*at].halted).collect();
        if running.is_empty() { None } else { Some(self.dice.pick(&running)) }
    }

    /// Creates a topic on the brokers that it had.
    fn create_topic(&mut self, topic: &str) {
        let brokers = self.brokers_of(topic);
        let kafka = &self.round().scene.kafka;
        match brokers {
            Some(brokers) => {
                let brokers: Vec<&[i32]> = brokers.iter().map(Vec::as_slice).collect();
                kafka.create_topic_on(topic, &brokers, scene::CONFIGS);
            }
            None => kafka.create_topic(topic, 4, scene::CONFIGS),
        }
    }

    /// Ends sessions of the instances: a number of them, or all.
    fn terminate(&mut self, most: Option<u64>) {
        let most = most.map_or("ALL".to_owned(), |most| most.to_string());
        let ended = self.round().scene.database.try_rows(&format!(
            "SELECT count(pg_terminate_backend(pid))::text FROM
                (SELECT pid FROM pg_stat_activity WHERE usename = '{ROLE}' ORDER BY random() LIMIT {most}) AS picked"
        ));
        let ended = ended.ok().and_then(|rows| rows.first()?.first()?.as_ref()?.parse().ok());
        self.report.add("sessions of PostgreSQL terminated", ended.unwrap_or(0));
    }

    /// Statements of another client, which may be refused, as a deadlock ends one of two. It does not wait for long: an
    /// instance that is halted may hold what it wants.
    /// Whether it was done.
    pub(super) fn other_session(&mut self, sql: &str) -> bool {
        let sql = format!("SET lock_timeout = '3s'; {sql}");
        let done = self.round().scene.database.try_rows(&sql).is_ok();
        if !done {
            self.report.add("statements of the other session refused", 1);
        }
        done
    }

    fn server_run(&mut self, sql: &str) {
        self.round().scene.database.run(sql);
    }

    /// Deletes a topic that the daemon writes, while nothing is in flight to it: the table from which it is filled is
    /// locked. Its records are kept for the comparison.
    fn output_topic_gone(&mut self, topic: &str, table: &str) {
        let round = self.round();
        let topic = round.scene.topic(topic);
        let scene = &round.scene;
        // A claimed record may reach the topic after the topic was read, and would be lost with it.
        let held = eventually(SOON * 4, "a moment without a claim", || {
            block_on(async {
                let client = scene.database.client().await;
                let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
                client.batch_execute(&lock).await.unwrap();
                let claimed = format!("SELECT FROM {table} WHERE publish_claim IS NOT NULL");
                let claims = client.query(&claimed, &[]).await.unwrap().len();
                if claims > 0 {
                    return Err(format!("{claims} claims"));
                }
                let held = scene.kafka.read_all(&topic);
                scene.kafka.delete_topic(&topic);
                client.batch_execute("COMMIT").await.unwrap();
                Ok(held)
            })
        });
        round.gone_output.extend(held);
        self.last(4000, Lasting::TopicGone(topic));
    }

    /// All records of the old topic must have been read, as they are lost with it. The new topic has fewer records, or
    /// more: then the stored offset exists in the new topic, too.
    fn recreate_topic(&mut self) {
        let with_more = self.dice.chance(300);
        let stopped = self.dice.chance(500);
        let name = self.any_topic();
        let gate = self.round().producer.gate();
        let held = gate.lock().unwrap();
        self.wait_until_consumed();
        if stopped {
            self.stop_instances();
        }
        let round = self.round();
        let topic = round.scene.topic(&name);
        let old = round.read(&topic);
        let marks = round.scene.kafka.watermarks(&topic);
        round.gone.extend(old);
        round.lost.retain(|(of, ..)| *of != topic);
        round.dump = None;
        round.scene.kafka.delete_topic(&topic);
        self.create_topic(&topic);
        let mut sends = Vec::new();
        for (partition, (_, high)) in marks {
            let count = match (with_more, high) {
                (true, high) => high + self.dice.below(20) as i64,
                (false, 0) => 0,
                (false, high) => self.dice.below(high.min(20) as u64) as i64,
            };
            for number in 0..count {
                let new = format!("anew-{partition}-{number}-{}", self.dice.below(1 << 60));
                let value = format!(
                    r#"{{"caller_id":"{new}","call_id":"{new}","greeting_call_id":"{new}","agent_call_id":"{new}",
                        "cloned_voice_id":"{new}","status":"completed","error_message":"{new}","voice_sample_url":"{new}"}}"#
                );
                sends.push(Send::to(&topic).partition(partition).value(value));
            }
        }
        self.report.add("records of recreated topics", sends.len() as u64);
        self.round().scene.kafka.send_all(sends);
        if stopped {
            self.start_two();
        }
        // An instance that never notices is reported and restarted, so that the rest of the run tests something else.
        let patience = Instant::now() + Duration::from_secs(60);
        while !stopped && !self.lag().0.is_empty() {
            if Instant::now() > patience {
                let (behind, _) = self.lag();
                self.difference(format!(
                    "after 60 s running instances do not read {name}, recreated: {behind:?}"
                ));
                self.stop_instances();
                self.start_two();
                break;
            }
            self.pass(200);
        }
        self.wait_until_consumed();
        drop(held);
    }

    /// Deletes the records before some offset of each partition of a topic while no instance runs. Read ones count;
    /// unread ones are lost.
    fn retention(&mut self) {
        self.stop_instances();
        self.wait_for_no_session();
        // Records that arrive now are deleted unread.
        self.round().producer.hold(false);
        self.pass(1500);
        let name = self.any_topic();
        let round = self.round();
        let topic = round.scene.topic(&name);
        let all = round.read(&topic);
        let marks = round.scene.kafka.watermarks(&topic);
        let group = &round.scene.group;
        let stored = round.scene.database.rows(&format!(
            "SELECT partition::text, next_offset::text FROM ingest.consumer_offsets
             WHERE group_id = '{group}' AND topic = '{topic}'"
        ));
        round.dump = None;
        let mut cuts = Vec::new();
        for (partition, (low, high)) in marks {
            let next: i64 = stored
                .iter()
                .find(|row| row[0] == Some(partition.to_string()))
                .map_or(0, |row| row[1].as_ref().unwrap().parse().unwrap());
            // A restored table may lack records that were read and have published dead letters and expiries: if they were deleted
            // now, those would have no row.
            let past = self.dice.chance(500) && self.round().restores.is_empty();
            let next_there = next.clamp(low, high);
            let (from, most) = if past { (next_there, high) } else { (low, next_there) };
            if most <= from {
                continue;
            }
            let cut = from + 1 + self.dice.below((most - from) as u64) as i64;
            let round = self.round();
            let before = |record: &&crate::support::kafka::Record| {
                record.partition == partition && record.offset < cut && record.offset < next
            };
            round.gone.extend(all.iter().filter(before).cloned());
            round.scene.kafka.delete_records(&topic, partition, cut);
            let lost = (cut - next).max(0) as u64;
            if lost > 0 {
                round.lost.push((topic.clone(), partition, next..cut));
            }
            cuts.push((partition, cut));
            self.report.add("records lost to retention before they were read", lost);
        }
        self.start_two();
        // Until then the old offset is what a dump would hold.
        let database = &self.round().scene.database;
        eventually(SOON * 2, "the offsets to be past what was deleted", || {
            let past = cuts.iter().all(|(partition, cut)| {
                let sql = format!(
                    "SELECT count(*) FROM ingest.consumer_offsets
                     WHERE topic = '{topic}' AND partition = {partition} AND next_offset >= {cut}"
                );
                database.value(&sql) == "1"
            });
            if past { Ok(()) } else { Err(&cuts) }
        });
    }

    /// While no instance runs, the group's offsets are set to anything, or the group is deleted.
    fn group_changed(&mut self, delete: bool) {
        self.stop_instances();
        let (dice, round) = (&mut self.dice, self.round.as_ref().expect("no round is under way"));
        let scene = &round.scene;
        eventually(SOON, "the group to be empty", || match scene.kafka.group_members(&scene.group) {
            0 => Ok(()),
            members => Err(members),
        });
        if delete {
            scene.kafka.delete_group(&scene.group);
        } else {
            for topic in round.topics() {
                let marks = scene.kafka.watermarks(&topic);
                let mut to = Vec::new();
                for (partition, (low, high)) in marks {
                    to.push((partition, dice.pick(&[low, high, high + 1000])));
                }
                scene.kafka.set_group_offsets(&scene.group, &topic, to);
            }
        }
        self.start_two();
    }

    fn start_two(&mut self) {
        for _ in 0..2 {
            self.start_instance();
        }
    }

    fn wait_for_no_session(&mut self) {
        // A pooler keeps sessions that nobody uses; the next instance behind one starts another pooler.
        self.round().pooler = None;
        let database = &self.round().scene.database;
        eventually(SOON, "the instances' sessions to end", || {
            let sessions =
                database.value(&format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}'"));
            if sessions == "0" { Ok(()) } else { Err(sessions) }
        });
    }

    fn dump(&mut self) {
        let database = self.round().database.clone();
        let file = self.server.path(&format!("{database}.dump"));
        let (url, path) = (self.server.url(&database), file.display().to_string());
        let done = self.server.run_program("pg_dump", &["-Fc", "-f", &path, "-d", &url], SOON * 4);
        assert!(done, "pg_dump failed:\n{}", tail(&self.server.log()));
        self.round().dump = Some(file);
    }

    fn restore(&mut self, how: Fault) {
        if self.round().dump.is_none() {
            self.dump();
            self.pass(3000);
        }
        let database = self.round().database.clone();
        let dump = self.round().dump.clone().unwrap().display().to_string();
        let began = chrono::Utc::now().timestamp_micros();
        let root = self.server.url("postgres");
        let sql = |stage: &Stage, sql: &str| {
            let server = &stage.server;
            server.run_program("psql", &["-q", "-v", "ON_ERROR_STOP=1", "-d", &root, "-c", sql], SOON * 2)
        };
        let load = |stage: &Stage, database: &str, options: &[&str]| {
            let url = stage.server.url(database);
            let arguments =
                [options, &["--exit-on-error", "--single-transaction", "-d", &url, &dump]].concat();
            stage.server.run_program("pg_restore", &arguments, SOON * 4)
        };
        match how {
            RestoreInPlace => {
                let done = (0..20).any(|_| {
                    // Sessions that wait for locks in another order may end it instead: an operator tries again.
                    self.terminate(None);
                    load(self, &database, &["--clean", "--if-exists"])
                });
                assert!(done, "pg_restore failed:\n{}", tail(&self.server.log()));
            }
            RestoreRenamed => {
                let beside = format!("{database}_restored");
                assert!(sql(self, &format!("CREATE DATABASE {beside} OWNER {ROLE}")));
                assert!(load(self, &beside, &[]), "pg_restore failed:\n{}", tail(&self.server.log()));
                assert!(sql(self, &format!("DROP DATABASE {database} WITH (FORCE)")));
                eventually(SOON, "the restored database to take its name", || {
                    let rename = format!("ALTER DATABASE {beside} RENAME TO {database}");
                    if sql(self, &rename) { Ok(()) } else { Err(tail(&self.server.log())) }
                });
            }
            _ => {
                self.stop_instances();
                assert!(sql(self, &format!("DROP DATABASE {database} WITH (FORCE)")));
                assert!(sql(self, &format!("CREATE DATABASE {database} OWNER {ROLE}")));
                assert!(load(self, &database, &[]), "pg_restore failed:\n{}", tail(&self.server.log()));
                self.start_two();
            }
        }
        self.round().restores.push(began..chrono::Utc::now().timestamp_micros());
    }
}

/// The end of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

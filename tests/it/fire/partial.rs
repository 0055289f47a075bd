//! Faults of one partition, one broker of three, or one client, while the others go on.

use std::time::{Duration, Instant};

use serde_json::json;

use super::faults::Lasting;
use super::stage::{DEAD_LETTER_LIMIT, Stage};
use crate::support::block_on;
use crate::support::daemon::{Finished, run_command};
use crate::support::kafka::Send;
use crate::support::processes::Signal;
use crate::support::protocol;
use crate::support::wait::SOON;

/// Maximum time for unaffected partitions to progress, on a busy machine.
const GOES_ON: Duration = Duration::from_secs(40);

/// The `client.id` of every instance.
const CLIENT_ID: &str = "voiceclone-events";

/// Records of one batch too large to unpack: more than `KAFKA_RECEIVE_MESSAGE_MAX_BYTES` of the instances.
const OVERSIZE: i64 = 12;

impl Stage {
    /// Calls are deleted after the instances have read a part of them. The rows show which part: those of the first calls, and
    /// of all that were not deleted.
    pub(super) fn deleted_unread(&mut self) {
        let (count, kept) = (6000_i64, self.dice.below(300) as i64);
        let partition = self.dice.pick(&[0, 1]);
        let gate = self.round().producer.gate();
        let held = gate.lock().unwrap();
        self.wait_until_consumed();
        let name = "call.lifecycle";
        let round = self.round();
        let topic = round.scene.topic(name);
        if round.deleted.contains(&topic) {
            return;
        }
        round.dump = None;
        let id = crate::support::unique("unread");
        let transcript = "x".repeat(4000);
        let sends = (0..count).map(|number| {
            let value = json!({"call_id": format!("{id}-{number}"), "status": "completed",
                               "occurred_at": 1_700_000_000 + number, "transcript": transcript});
            Send::to(&topic).partition(partition).value(value.to_string())
        });
        let cut = block_on(async {
            let client = round.scene.database.client().await;
            client.batch_execute("BEGIN; LOCK TABLE public.call_log IN ACCESS EXCLUSIVE MODE").await.unwrap();
            round.scene.kafka.send_all(sends);
            let cut = round.scene.kafka.watermarks(&topic)[&partition].1 - kept;
            round.gone.extend(
                round.read(&topic).into_iter().filter(|r| r.partition == partition && r.offset < cut),
            );
            round.scene.kafka.delete_records(&topic, partition, cut);
            client.batch_execute("COMMIT").await.unwrap();
            cut
        });
        self.wait_until_consumed();
        let round = self.round();
        let sql = format!(
            "SELECT split_part(call_id, '-', 2) FROM public.call_log WHERE starts_with(call_id, '{id}-')"
        );
        let mut there: Vec<i64> = round
            .scene
            .database
            .rows(&sql)
            .iter()
            .map(|row| row[0].as_ref().unwrap().parse().unwrap())
            .collect();
        there.sort_unstable();
        let read = (0..).zip(&there).take_while(|(number, there)| number == *there).count() as i64;
        let lost = cut + kept - count + read..cut;
        let expected: Vec<i64> = (0..read.min(count - kept)).chain(count - kept..count).collect();
        round.gone.retain(|r| r.topic != topic || r.partition != partition || !lost.contains(&r.offset));
        if !lost.is_empty() {
            round.lost.push((topic, partition, lost.clone()));
        }
        if there != expected {
            self.difference(format!(
                "calls {id} of {name} partition {partition} are missing, though their records were not deleted, or \
                 after others were read: {read} were read in a row, then {} of {kept}",
                there.len() as i64 - read
            ));
        }
        self.report.add("records deleted before they were read", (lost.end - lost.start).max(0) as u64);
        drop(held);
    }

    /// The second broker has partitions that no other has; those of the third move. All others go on.
    pub(super) fn broker_away(&mut self) {
        if self.other_brokers.is_empty() {
            return;
        }
        let at = self.dice.below(2) as usize;
        // Nothing is in flight to the partitions that will have no leader.
        if at == 0 {
            self.round().producer.send_only_to(&[0, 1, 3]);
        }
        let gate = self.round().producer.gate();
        drop(gate.lock().unwrap());
        let how = self.dice.pick(&["stop", "kill", "halt"]);
        let broker = &mut self.other_brokers[at];
        match how {
            "stop" => broker.process.stop(),
            "kill" => broker.process.kill(),
            _ => broker.process.signal(Signal::Stop),
        }
        let id = broker.id;
        eprintln!("fire: broker {id}: {how}");
        // Until the controller has noticed, requests to a leader that does not answer are in vain.
        self.pass(6000);
        let away = if at == 0 { vec![2] } else { Vec::new() };
        self.look_whether_others_go_on(&away);
        let millis = self.dice.pick(&[0, 5000]);
        self.last(millis, Lasting::BrokerAway(id));
    }

    pub(super) fn broker_back(&mut self, id: i32) {
        let broker = self.other_brokers.iter_mut().find(|broker| broker.id == id).unwrap();
        if broker.process.is_running() {
            broker.process.signal(Signal::Cont);
        } else {
            broker.process.start_again();
        }
        self.round().producer.send_only_to(&[]);
    }

    /// Asserts that all current records of the other partitions are read soon.
    fn look_whether_others_go_on(&mut self, without: &[i32]) {
        let started = Instant::now();
        let round = self.round();
        let mut wanted = Vec::new();
        for topic in round.topics() {
            for partition in (0..4).filter(|partition| !without.contains(partition)) {
                let (_, high) = round.scene.kafka.partition_watermarks(&topic, partition);
                wanted.push((topic.clone(), partition, high));
            }
        }
        loop {
            wanted.retain(|(topic, partition, high)| {
                let sql = format!(
                    "SELECT count(*)::text FROM ingest.consumer_offsets WHERE topic = '{topic}'
                     AND partition = {partition} AND next_offset >= {high}"
                );
                let rows = self.round.as_ref().unwrap().scene.database.try_rows(&sql);
                *high > 0 && rows.ok().and_then(|rows| rows[0][0].clone()).as_deref() != Some("1")
            });
            let stood = started.elapsed();
            if wanted.is_empty() {
                self.report.at_least(
                    "ms that partitions without a fault of their own stood still at most",
                    stood.as_millis() as u64,
                );
                return;
            }
            if stood > GOES_ON {
                self.difference(format!(
                    "after {stood:.0?} these partitions, which have no fault of their own, stand still: {wanted:?}"
                ));
                return;
            }
            self.pass(200);
        }
    }

    /// Once all of it was read.
    pub(super) fn topic_gone(&mut self) {
        if !self.round().deleted.is_empty() {
            return;
        }
        let name = self.any_topic();
        let gate = self.round().producer.gate();
        let held = gate.lock().unwrap();
        self.wait_until_consumed();
        let round = self.round();
        let topic = round.scene.topic(&name);
        let old = round.read(&topic);
        round.gone.extend(old);
        round.lost.retain(|(of, ..)| *of != topic);
        round.dump = None;
        round.producer.leave_out(&topic);
        round.scene.kafka.delete_topic(&topic);
        round.deleted.insert(topic);
        drop(held);
        self.pass(1000);
        self.look_whether_others_go_on(&[]);
    }

    /// The first of two static members with one name is fenced by the second, which ends; then the first goes on, with a
    /// new client.
    pub(super) fn fenced(&mut self) {
        let name = crate::support::unique("pod");
        let variables = [("KAFKA_GROUP_INSTANCE_ID", name.as_str())];
        self.start_instance_with(&variables);
        self.pass(3000);
        self.start_instance_with(&variables);
        let millis = 4000 + self.dice.below(3000);
        self.pass(millis);
        let mut second = self.round().instances.pop().unwrap();
        self.end_in_order(&mut second);
        if self.round().instances.len() > 4 {
            let mut other = self.round().instances.remove(0);
            if other.halted {
                other.daemon.signal(Signal::Cont);
            }
            self.forget_halt(&other.name.clone());
            self.end_in_order(&mut other);
        }
    }

    pub(super) fn quota(&mut self) {
        self.limit_fetching(20_000.0);
        self.last(6000, Lasting::Quota);
    }

    pub(super) fn limit_fetching(&mut self, bytes_per_second: f64) {
        let mut servers = vec![self.round().scene.servers.clone()];
        servers.truncate(1);
        protocol::limit_fetching(&servers[0], CLIENT_ID, bytes_per_second);
    }

    pub(super) fn oversize_batch(&mut self) {
        let name = self.any_topic();
        let partition = self.dice.pick(&[0, 1]);
        let round = self.round();
        round.dump = None;
        let topic = round.scene.topic(&name);
        let value = json!({"call_id": "oversize", "error_message": "x".repeat(7 << 20)}).to_string();
        let records = (0..OVERSIZE).map(|_| Send::to(&topic).partition(partition).value(value.clone()));
        let gate = round.producer.gate();
        let held = gate.lock().unwrap();
        let sent = round.scene.kafka.send_in_one_batch(records);
        drop(held);
        let (from, to) = (sent[0].1, sent[0].1 + OVERSIZE);
        round.lost.push((topic.clone(), partition, from..to));
        self.report.add("records of batches too large to unpack", OVERSIZE as u64);
        self.pass(3000);
        self.look_whether_others_go_on(&[partition]);
        let (partition, to) = (partition.to_string(), to.to_string());
        let skip = ["skip", "--topic", &name, "--partition", &partition, "--to", &to, "--note", "too large"];
        // `skip` refuses to act before the daemon has reached the offset.
        let started = Instant::now();
        loop {
            let sql = format!(
                "SELECT count(*)::text FROM ingest.consumer_offsets WHERE topic = '{topic}'
                 AND partition = {partition} AND next_offset = {from}"
            );
            let there = self.round().scene.database.value(&sql) == "1";
            let finished = there.then(|| self.command(&skip));
            match finished {
                Some(Finished { code: 0, .. }) => return,
                seen if started.elapsed() > GOES_ON => {
                    self.difference(format!("`skip` of {topic} {partition} {from}..{to} failed: {seen:?}"));
                    return;
                }
                _ => self.pass(500),
            }
        }
    }

    pub(super) fn limit_reached(&mut self) {
        let name = self.any_topic();
        let partition = self.dice.pick(&[0, 1]);
        let limit: usize = DEAD_LETTER_LIMIT.parse().unwrap();
        let gate = self.round().producer.gate();
        let held = gate.lock().unwrap();
        let round = self.round();
        round.dump = None;
        let topic = round.scene.topic(&name);
        let bad = |number: usize| Send::to(&topic).partition(partition).value(format!("no JSON {number}"));
        round.scene.kafka.send_all((0..limit + 20).map(bad));
        drop(held);
        let sql = format!(
            "SELECT count(*)::text FROM ingest.consumer_offsets WHERE topic = '{topic}'
             AND partition = {partition} AND stopped_at IS NOT NULL"
        );
        let started = Instant::now();
        while self.round().scene.database.value(&sql) != "1" {
            if started.elapsed() > GOES_ON {
                self.difference(format!("{topic} {partition} did not stop at its limit"));
                return;
            }
            self.pass(200);
        }
        self.look_whether_others_go_on(&[partition]);
        self.accept_dead_letters();
        self.report.add("partitions stopped and accepted", 1);
    }

    /// Runs `dead-letters accept` for all partitions.
    pub(super) fn accept_dead_letters(&mut self) {
        let finished = self.command(&["dead-letters", "accept"]);
        if finished.code != 0 {
            self.difference(format!("`dead-letters accept` failed: {finished:?}"));
        }
    }

    fn command(&mut self, arguments: &[&str]) -> Finished {
        let round = self.round();
        run_command(arguments, &round.scene.variables(&[]), SOON)
    }

    pub(super) fn postgres_away_members_change(&mut self) {
        self.server.stop_immediately();
        for _ in 0..3 {
            let count = self.round().instances.len() as u64;
            let at = self.dice.below(count) as usize;
            let mut instance = self.round().instances.remove(at);
            self.forget_halt(&instance.name.clone());
            instance.daemon.signal(Signal::Kill);
            instance.daemon.wait_exit(SOON);
            self.start_instance();
            let millis = 500 + self.dice.below(3000);
            self.pass(millis);
        }
        self.last(3000, Lasting::PostgresDown);
    }
}

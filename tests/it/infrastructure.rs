//! Tests of the tests' own helpers, one for each promise.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::kafka::{Record, Send, Transaction, shared};
use crate::support::left_out::{private_kafka, real_kafka, test_name};
use crate::support::postgres::{Database, PrivateServer};
use crate::support::wait::{SOON, eventually, eventually_async, eventually_eq};
use crate::support::{processes, unique};

#[test]
fn records_come_back_from_kafka_as_they_were_sent() {
    let kafka = real_kafka!();
    let topic = unique("topic");
    kafka.create_topic(&topic, 3, &[]);
    let in_2040 = 2_208_988_800_000;
    let full = Send::to(&topic).partition(2).key("k").value([0xff, 0]).timestamp(in_2040);
    let full = full.header("a", [0xfe]).null_header("a").header("b", "text");
    assert_eq!(kafka.send(full), (2, 0));
    assert_eq!(kafka.send(Send::to(&topic).partition(0).key("k")), (0, 0));
    assert_eq!(kafka.send(Send::to(&topic).partition(0).value(vec![b'x'; 9 << 20])), (0, 1));
    let records = kafka.read_all(&topic);
    assert_eq!(records.len(), 3);
    assert_eq!((records[0].key.as_deref(), &records[0].value), (Some(&b"k"[..]), &None));
    assert_eq!(records[1].value.as_ref().map(Vec::len), Some(9 << 20));
    assert_eq!((records[2].timestamp, records[2].value.as_deref()), (Some(in_2040), Some(&[0xff, 0][..])));
    let headers =
        [("a".to_string(), Some(vec![0xfe])), ("a".into(), None), ("b".into(), Some(b"text".to_vec()))];
    assert_eq!((records[2].headers.as_slice(), records[2].header("b")), (&headers[..], Some("text")));
}

#[test]
fn records_of_aborted_transactions_are_hidden() {
    let kafka = real_kafka!();
    let topic = unique("topic");
    kafka.create_topic(&topic, 1, &[]);
    kafka.send_in_transaction(Transaction::Abort, [Send::to(&topic).value("1"), Send::to(&topic).value("2")]);
    kafka.send_in_transaction(Transaction::Commit, [Send::to(&topic).value("3")]);
    assert_eq!(values(kafka.read_all(&topic)), ["3"]);
    assert_eq!(values(kafka.read_all_uncommitted(&topic)), ["1", "2", "3"]);
}

#[test]
fn topics_lose_records_and_come_again() {
    let kafka = real_kafka!();
    let (topic, group) = (unique("topic"), unique("group"));
    kafka.create_topic(&topic, 2, &[("cleanup.policy", "compact,delete")]);
    kafka.send_all((0..1000).map(|n| Send::to(&topic).partition(1).key(n.to_string())));
    kafka.delete_records(&topic, 1, 990);
    assert_eq!(kafka.watermarks(&topic), BTreeMap::from([(0, (0, 0)), (1, (990, 1000))]));
    assert_eq!(kafka.read_all(&topic).len(), 10);
    assert_eq!(kafka.group_offsets(&group, &topic), BTreeMap::new());
    kafka.set_group_offsets(&group, &topic, [(1, 995)]);
    assert_eq!(kafka.group_offsets(&group, &topic), BTreeMap::from([(1, 995)]));
    assert_eq!(kafka.group_members(&group), 0);
    kafka.delete_topic(&topic);
    kafka.create_topic(&topic, 2, &[]);
    assert_eq!(kafka.send(Send::to(&topic).partition(1).value("new")), (1, 0));
    assert_eq!(kafka.read_all(&topic).len(), 1);
}

#[test]
fn a_private_broker_keeps_its_data_over_stop_and_kill() {
    let mut broker = private_kafka!(("log.cleaner.backoff.ms", "500"));
    broker.create_topic("topic", 1, &[]);
    broker.send(Send::to("topic").value("1"));
    broker.stop();
    broker.start_again();
    broker.send(Send::to("topic").value("2"));
    broker.kill();
    broker.start_again();
    broker.send(Send::to("topic").value("3"));
    assert_eq!(values(broker.read_all("topic")), ["1", "2", "3"]);
}

#[test]
fn each_test_has_a_database_of_its_own() {
    let (one, two) = (Database::new(), Database::new());
    one.run("CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, NULL), (2, 'x')");
    assert_eq!(one.rows("SELECT * FROM t ORDER BY a")[1], [Some("2".into()), Some("x".into())]);
    assert_eq!(two.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0");
    let name = one.value("SELECT current_database()");
    drop(one);
    assert_eq!(two.value(&format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'")), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn helpers_work_within_an_async_runtime() {
    let database = Database::new();
    let client = database.client().await;
    client.batch_execute("CREATE SEQUENCE s").await.unwrap();
    let next =
        || async { database.value("SELECT nextval('s')").parse::<i64>().map_err(|error| error.to_string()) };
    let third = || async { next().await.and_then(|n| if n == 3 { Ok(n) } else { Err(n.to_string()) }) };
    assert_eq!(eventually_async(SOON, "the third", third).await, 3);
    fn here() {}
    assert_eq!(test_name(here), "infrastructure::helpers_work_within_an_async_runtime");
}

#[test]
fn a_private_server_keeps_its_data_over_stop_and_crash() {
    let mut server = PrivateServer::start(&[("work_mem", "3MB")]);
    let database = Database::on(&server);
    assert_eq!(database.value("SHOW work_mem"), "3MB");
    database.run("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    server.stop();
    server.start_again();
    database.run("INSERT INTO t VALUES (2); CREATE ROLE other LOGIN PASSWORD 'right'");
    server.stop_immediately();
    server.start_again();
    database.run("INSERT INTO t VALUES (3)");
    assert_eq!(database.value("SELECT count(*) FROM t"), "3");
    assert!(server.log().contains("automatic recovery in progress"));
}

#[test]
#[should_panic(expected = "waited 50.0ms in vain for the moon to be 2; seen last: 1")]
fn waiting_ends_and_says_what_was_seen() {
    eventually_eq(Duration::from_millis(50), "the moon", 2, || 1);
}

/// Started by the next test in a process of its own.
#[test]
#[ignore = "waits to be killed"]
fn victim() {
    if std::env::var_os("VICTIM").is_none() {
        return;
    }
    let mut servers = vec![PrivateServer::start(&[]).address()];
    let (database, server) = (Database::new(), PrivateServer::start(&[]));
    servers.push(server.address());
    servers.push(database.url().split(['@', '/']).nth(3).unwrap().to_string());
    servers.extend(shared().ok().map(|kafka| kafka.servers.clone()));
    println!("\nup: {} {}", processes::folder("any").display(), servers.join(" "));
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_test_process_leaves_nothing_behind() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "infrastructure::victim", "--nocapture"])
        .env("VICTIM", "1")
        .env_remove("KAFKA_BOOTSTRAP_SERVERS")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let up = lines.find_map(|line| line.strip_prefix("up: ").map(str::to_string)).unwrap();
    let (folder, servers) = up.split_once(' ').unwrap();
    let folder = Path::new(folder).parent().unwrap();
    let answering =
        || servers.split(' ').filter(|server| TcpStream::connect(server).is_ok()).collect::<Vec<_>>();
    assert_eq!(answering(), servers.split(' ').skip(1).collect::<Vec<_>>(), "the first one was dropped");
    victim.kill().unwrap(); // as `kill -9` does
    victim.wait().unwrap();
    eventually_eq(SOON, "the servers that answer", Vec::new(), answering);
    eventually(SOON, "the folder's end", || if folder.exists() { Err(folder) } else { Ok(()) });
}

fn values(records: Vec<Record>) -> Vec<String> {
    records
        .into_iter()
        .map(|record| String::from_utf8(record.value.unwrap_or_default()).unwrap_or_default())
        .collect()
}

//! Dead letters from the record to the topic (contract, section 6): kept as bytes, published once, resolved when their
//! record lands.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use voiceclone_events::config::{Need, Settings};
use voiceclone_events::ingest::{Ingest, Positions};
use voiceclone_events::kafka::headers;
use voiceclone_events::kafka::send::Sender;
use voiceclone_events::record::{Header, Outgoing, Record, Topic};
use voiceclone_events::store::migrate;
use voiceclone_events::store::unpublished::Fate;
use voiceclone_events::store::write::Mode;

use crate::histories::{ingest, write};
use crate::support::kafka::{Kafka, Send};
use crate::support::left_out::{private_kafka, real_kafka};
use crate::support::postgres::Database;
use crate::support::scene::Scene;
use crate::support::tables;
use crate::support::wait::{eventually, eventually_eq, holds};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

async fn migrated() -> Database {
    let database = Database::new();
    migrate::up(database.url(), None).await.unwrap();
    database
}

/// A `clone.transfer` record of this offset, with a value of more than `bytes` bytes.
fn transfer(offset: i64, bytes: usize) -> Record {
    let value = json!({
        "greeting_call_id": format!("g{offset}"), "agent_call_id": "a", "cloned_voice_id": "v",
        "unknown": "x".repeat(bytes),
    });
    Record {
        topic: Topic::CloneTransfer,
        partition: 0,
        offset,
        timestamp: 1_767_225_600_000 + offset,
        key: None,
        value: Some(value.to_string().into_bytes()),
        headers: Vec::new(),
    }
}

/// Offset, resolution and tries of each letter.
fn letters(database: &Database) -> Vec<String> {
    let sql = "SELECT record_offset, CASE WHEN resolved_at IS NULL THEN 'open' ELSE 'resolved' END,
                      COALESCE(resolution, '-'), tries FROM ingest.dead_letters ORDER BY record_offset";
    let shown = |row: Vec<Option<String>>| row.into_iter().flatten().collect::<Vec<_>>().join(" ");
    database.rows(sql).into_iter().map(shown).collect()
}

/// An ingest with this maximum size of records.
fn with_limit(database: &Database, record_max_bytes: usize, mode: Mode) -> Ingest {
    let mut ingest = ingest(database);
    ingest.limits.record_max_bytes = record_max_bytes;
    ingest.mode = mode;
    ingest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_resolved_when_its_record_lands_and_open_again_when_that_fails_again() {
    let database = migrated().await;
    let records = [transfer(0, 10), transfer(1, 5000), transfer(2, 10), transfer(3, 5000)];
    let small = with_limit(&database, 1000, Mode::Live);
    write(&small, &records).await;
    assert_eq!(letters(&database), ["1 open - 0", "3 open - 0"]);
    write(&small, &records).await;
    assert_eq!(letters(&database), ["1 open - 0", "3 open - 0"], "a repeat changes nothing");

    write(&with_limit(&database, 10_000, Mode::Rehearse), &records).await;
    assert_eq!(letters(&database), ["1 open - 0", "3 open - 0"], "a rehearsal sets nothing");
    let mut another_time = transfer(1, 5000);
    another_time.timestamp += 1;
    write(&with_limit(&database, 10_000, Mode::Replay), &[another_time]).await;
    assert_eq!(
        letters(&database),
        ["1 open - 0", "3 open - 0"],
        "a topic that was recreated has other records"
    );

    write(&with_limit(&database, 10_000, Mode::Replay), &records[..3]).await;
    assert_eq!(letters(&database), ["1 resolved replayed 0", "3 open - 0"]);
    write(&with_limit(&database, 1000, Mode::Rehearse), &records).await;
    assert_eq!(letters(&database), ["1 resolved replayed 0", "3 open - 0"], "nor does a rehearsal open one");
    write(&with_limit(&database, 1000, Mode::Replay), &records).await;
    assert_eq!(letters(&database), ["1 open - 1", "3 open - 0"]);

    for (resolution, after) in [
        ("retried", "open - 1"),
        ("replayed", "open - 1"),
        ("fixed", "resolved fixed 0"),
        ("discarded", "resolved discarded 0"),
    ] {
        database.run(&format!(
            "UPDATE ingest.dead_letters SET resolved_at = now(), resolution = '{resolution}', tries = 0
             WHERE record_offset = 1"
        ));
        write(&small, &records).await;
        assert_eq!(letters(&database), [format!("1 {after}"), "3 open - 0".to_owned()], "{resolution}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_reads_records_again_resolves_their_letters() {
    let database = migrated().await;
    let records: Vec<Record> =
        (0..20).map(|offset| transfer(offset, if offset % 5 == 2 { 5000 } else { 10 })).collect();
    write(&with_limit(&database, 1000, Mode::Live), &records).await;
    let open =
        |offsets: &[i64]| offsets.iter().map(|offset| format!("{offset} open - 0")).collect::<Vec<_>>();
    assert_eq!(letters(&database), open(&[2, 7, 12, 17]));

    // A new process with another setting, after an operator has set the offsets back.
    let live = with_limit(&database, 10_000, Mode::Live);
    write(&live, &records[5..10]).await;
    assert_eq!(letters(&database)[1], "7 resolved replayed 0");
    write(&live, &records[10..13]).await;
    assert_eq!(letters(&database)[2], "12 resolved replayed 0");
    // The same process goes back once more.
    write(&live, &records[..5]).await;
    assert_eq!(letters(&database)[0], "2 resolved replayed 0");
    assert_eq!(letters(&database)[3], "17 open - 0", "what was not read again is open");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_with_many_headers_are_written_in_linear_time() {
    let database = migrated().await;
    let headers: Vec<Header> =
        (0..300).map(|number| Header::new(format!("header-{number}"), format!("value {number}"))).collect();
    let records: Vec<Record> = (0..4000)
        .map(|offset| Record { value: None, headers: headers.clone(), ..transfer(offset, 0) })
        .collect();
    let begin = Instant::now();
    write(&ingest(&database), &records).await;
    let took = begin.elapsed();
    // In the square of their number it was 31 s for 3,000 on an idle machine.
    assert!(took < Duration::from_secs(25), "{took:?}");
    let whole =
        "SELECT count(*), min(cardinality(headers)), max(cardinality(headers)) FROM ingest.dead_letters";
    let count = |number: usize| Some(number.to_string());
    assert_eq!(database.rows(whole), [[count(4000), count(600), count(600)]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_of_the_publisher_counts_keys_and_headers_too() {
    let database = migrated().await;
    const MIB: usize = 1 << 20;
    let large_key = |offset| Record { key: Some(vec![b'k'; 3 * MIB]), ..transfer(offset, 0) };
    let large_header =
        |offset| Record { headers: vec![Header::new("h", vec![b'h'; 3 * MIB])], ..transfer(offset, 0) };
    let many_headers = |offset| {
        let headers = vec![Header { name: Vec::new(), value: None }; 60_000];
        Record { headers, ..transfer(offset, 0) }
    };
    let ingest = ingest(&database);
    for offset in 0..4 {
        write(&ingest, &[large_key(offset), large_header(offset + 4), many_headers(offset + 8)]).await;
    }
    // As a row that was written before there was such a column.
    database.run("UPDATE ingest.dead_letters SET bytes = NULL WHERE record_offset % 2 = 0");
    let mut all = 0;
    loop {
        let (claim, letters) = ingest.store.claim_dead_letters(1000, 8 << 20).await.unwrap().split();
        if letters.is_empty() {
            break;
        }
        assert!(letters.len() <= 3, "{} letters in a round", letters.len());
        all += letters.len();
        let fates: Vec<(i64, Fate)> = letters.iter().map(|letter| (letter.id, Fate::Published)).collect();
        ingest.store.settle_dead_letters(claim, &fates).await.unwrap();
    }
    assert_eq!(all, 12);
    assert_eq!(database.value("SELECT count(*) FROM ingest.dead_letters WHERE published_at IS NULL"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_instances_claim_each_letter_exactly_once_and_what_fails_comes_back_after_its_pause() {
    let database = migrated().await;
    let records: Vec<Record> = (0..500).map(|offset| Record { value: None, ..transfer(offset, 0) }).collect();
    let stores = [(); 3].map(|()| ingest(&database).store);
    write(&ingest(&database), &records).await;
    let instance = async |store: &voiceclone_events::store::Store| {
        let mut claimed = Vec::new();
        loop {
            let (claim, letters) = store.claim_dead_letters(7, 1 << 20).await.unwrap().split();
            if letters.is_empty() {
                return claimed;
            }
            let fate = |offset: i64| if offset % 10 == 3 { Fate::Failed } else { Fate::Published };
            let fates: Vec<_> =
                letters.iter().map(|letter| (letter.id, fate(letter.record_offset))).collect();
            store.settle_dead_letters(claim, &fates).await.unwrap();
            claimed.extend(letters.iter().map(|letter| letter.record_offset));
        }
    };
    database.run("UPDATE ingest.dead_letters SET publish_tries = 10");
    let (first, second, third) =
        tokio::join!(instance(&stores[0]), instance(&stores[1]), instance(&stores[2]));
    let mut all = [first, second, third].concat();
    all.sort_unstable();
    assert_eq!(all, (0..500).collect::<Vec<i64>>(), "each once; what failed waits");
    let waiting = "SELECT count(*), min(publish_tries) FROM ingest.dead_letters WHERE published_at IS NULL";
    assert_eq!(database.rows(waiting), [[Some("50".to_owned()), Some("11".to_owned())]]);
}

/// The settings of a program on this stage.
fn settings(scene: &Scene) -> Settings {
    let flags = voiceclone_events::cli::SettingFlags::default();
    let variables = scene.variables(&[]).into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    Settings::from(&flags, variables, Need { database: true, broker: true }).unwrap()
}

/// The headers of the first record of a topic's first partition.
fn first_headers(kafka: &Kafka, topic: &str) -> Vec<Header> {
    let mut config = kafka.config();
    config.set("group.id", "unused").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    eventually(MINUTES, "the first record", || match consumer.poll(Duration::from_secs(1)) {
        Some(Ok(message)) if message.offset() == 0 => Ok(headers::read(&message)),
        other => Err(format!("{other:?}")),
    })
}

#[test]
fn header_names_that_are_no_utf_8_are_kept_and_published_as_they_came() {
    let scene = Scene::new(real_kafka!(), 1);
    let original = vec![
        Header::new(b"\xff\xfename".as_slice(), b"\0\xff".as_slice()),
        Header { name: b"\xc3\x28".to_vec(), value: None },
        Header::new("plain", ""),
        Header::new(b"\xff\xfename".as_slice(), "again"),
    ];
    let outgoing = Outgoing {
        topic: "clone.failed",
        key: None,
        value: Some(b"no json".to_vec()),
        headers: original.clone(),
        timestamp: None,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { Sender::new(&settings(&scene)).unwrap().send(&outgoing).await }).unwrap();

    let daemon = scene.daemon(&[]);
    scene.wait_until_consumed(MINUTES);
    let kept: Vec<Option<Vec<u8>>> =
        original.iter().flat_map(|header| [Some(header.name.clone()), header.value.clone()]).collect();
    assert_eq!(tables::dead_letters(&scene.database)[0].headers, kept);
    let published = first_headers(&scene.kafka, &scene.topic("voiceclone.dead-letters"));
    assert_eq!(published[..4], original);
    let added: Vec<&[u8]> = published[4..].iter().map(|header| header.name.as_slice()).collect();
    let names = ["topic", "partition", "offset", "exception.class.name", "exception.message"];
    assert_eq!(added, names.map(|name| format!("__connect.errors.{name}").into_bytes()));
    let errors: Vec<String> =
        daemon.logs().into_iter().filter(|line| line.contains("ERROR") || line.contains("panic")).collect();
    assert_eq!(errors, [""; 0]);
}

#[test]
fn a_letter_larger_than_the_topic_takes_is_marked_and_one_that_only_its_batch_made_too_large_is_published() {
    let scene = Scene::new(real_kafka!(), 1);
    let topic = scene.topic("voiceclone.dead-letters");
    scene.kafka.delete_topic(&topic);
    scene.kafka.create_topic(&topic, 1, &[("max.message.bytes", "100000")]);
    let source = scene.topic("clone.failed");
    for size in [60_000, 60_000, 500_000, 60_000, 60_000] {
        scene.kafka.send(Send::to(&source).partition(0).value(vec![b' '; size]));
    }
    let _daemon = scene.daemon(&[]);
    let state = || {
        scene.database.rows(
            "SELECT record_offset, published_at IS NOT NULL, unpublishable IS NOT NULL,
                    unpublishable IS NULL OR publish_at > now() AT TIME ZONE 'utc' + interval '23 hours'
             FROM ingest.dead_letters ORDER BY record_offset",
        )
    };
    scene.wait_until_consumed(MINUTES);
    let row = |offset: usize, published: bool| {
        let shown = |yes: bool| Some(if yes { "t" } else { "f" }.to_owned());
        vec![Some(offset.to_string()), shown(published), shown(!published), shown(true)]
    };
    let expected: Vec<_> = (0..5).map(|offset| row(offset, offset != 2)).collect();
    eventually_eq(MINUTES, "the fates of the letters", expected, state);
    let why = scene.database.value("SELECT unpublishable FROM ingest.dead_letters WHERE record_offset = 2");
    assert!(why.contains(&topic) && why.to_lowercase().contains("size"), "{why}");
    assert_eq!(scene.kafka.read_all(&topic).len(), 4, "each once");

    // The topic takes more now, and the day is over.
    scene.kafka.delete_topic(&topic);
    scene.kafka.create_topic(&topic, 1, &[("max.message.bytes", "1000000")]);
    scene.database.run(
        "UPDATE ingest.dead_letters SET publish_at = now() AT TIME ZONE 'utc' WHERE published_at IS NULL",
    );
    eventually_eq(MINUTES, "the published letters", 1, || scene.kafka.read_all(&topic).len());
    eventually_eq(MINUTES, "the marks", "0".to_owned(), || {
        scene.database.value(
            "SELECT count(*) FROM ingest.dead_letters WHERE published_at IS NULL OR unpublishable IS NOT NULL",
        )
    });
}

#[test]
fn the_daemon_creates_no_topic_where_the_broker_would() {
    let broker = private_kafka!(("auto.create.topics.enable", "true"));
    let scene = Scene::new(&broker, 1);
    let missing = ["voiceclone.dead-letters", "clone.expired"].map(|topic| scene.topic(topic));
    missing.iter().for_each(|topic| scene.kafka.delete_topic(topic));
    scene.kafka.send(Send::to(&scene.topic("clone.failed")).partition(0).value("no json"));
    let daemon = scene.daemon(&[("EXPIRY_INTERVAL", "1s"), ("KAFKA_COMPRESSION_TYPE", "zstd")]);
    eventually(MINUTES, "a line that says that the letter is not published", || {
        let logs = daemon.logs();
        let says_so = logs.iter().any(|line| line.contains("not everything could be published"));
        if says_so { Ok(()) } else { Err(logs) }
    });
    let mut config = scene.kafka.config();
    let client: BaseConsumer = config.set("group.id", "unused").create().unwrap();
    holds(Duration::from_secs(15), "the topics are missing", || {
        let metadata = client.fetch_metadata(None, Duration::from_secs(10)).unwrap();
        let names: Vec<&str> = metadata.topics().iter().map(|topic| topic.name()).collect();
        if missing.iter().any(|topic| names.contains(&topic.as_str())) {
            Err(format!("{names:?}"))
        } else {
            Ok(())
        }
    });
    scene.kafka.create_topic(&missing[0], 1, &[]);
    eventually_eq(MINUTES, "the published letters", 1, || scene.kafka.read_all(&missing[0]).len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_which_a_part_fails_resolves_only_what_landed() {
    let database = migrated().await;
    let records = [transfer(0, 5000), transfer(1, 20_000)];
    write(&with_limit(&database, 1000, Mode::Live), &records).await;
    let live = with_limit(&database, 10_000, Mode::Live);
    live.write(&records, &mut Positions::new(), &CancellationToken::new()).await.unwrap();
    assert_eq!(letters(&database), ["0 resolved replayed 0", "1 open - 0"]);
}

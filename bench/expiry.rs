//! Expires many cache rows at once, and measures the effect on consuming.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::latency::{Pulse, Times, WARM_UP, wait_until_consuming};
use crate::support::unique;
use crate::support::wait::eventually;
use crate::world::World;

/// Records per second that are consumed meanwhile.
pub const RATE: u64 = 100;

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Expiry {
    /// Rows that were due.
    pub rows: u64,
    /// From the first expiry transaction to the last, by `deleted_at`, which is when its transaction began.
    pub expired_seconds: f64,
    /// From the last expiry until the outbox was empty and the topic `clone.expired` had all events.
    pub published_seconds: f64,
    /// Bytes of WAL written until everything was published.
    pub wal_bytes: f64,
    /// Latency of consuming before, with nothing to expire.
    pub before: Times,
    /// Latency of consuming until everything was published.
    pub meanwhile: Times,
}

/// Measures: first `seconds` of consuming alone, then with `rows` due at once. A transaction inserts them beforehand; its
/// commit makes them due.
pub fn expiry(world: &World, rows: u64, seconds: u64) -> Expiry {
    let (database, topics, group) = (world.database(), world.topics(1), unique("group"));
    let (session, fill) = (world.session(&database), world.session(&database));
    fill.run(&format!(
        "BEGIN;
         INSERT INTO public.voice_clone_cache (id, caller_id, cloned_voice_id, clone_created_at, ttl_expires_at,
                                               reuse_count, last_used_at, created_at)
         SELECT gen_random_uuid(), '+999' || lpad((n % 1000000000)::text, 9, '0'), md5(n::text), t,
                t + interval '1 day', 1, t, t
         FROM (SELECT n, now() AT TIME ZONE 'utc' - interval '3 days' + n * interval '10 ms' AS t
               FROM generate_series(1, {rows}) AS n) AS made;
         ANALYZE public.voice_clone_cache"
    ));
    session.run("CHECKPOINT");

    let url = world.url(&database, "consumer-1", None);
    let mut daemon = world.daemon(&topics, &url, &group, &[("EXPIRY_INTERVAL", "1s")]);
    wait_until_consuming(world, &database, &mut daemon, &group, topics.partitions_read());
    let pulse = Pulse::start(world, &topics, &database, &group, RATE);
    std::thread::sleep(WARM_UP);
    let start = Instant::now();
    std::thread::sleep(Duration::from_secs(seconds));
    let wal = session.wal();
    fill.run("COMMIT");
    let due = Instant::now();

    let expired = topics.name("clone.expired");
    eventually(Duration::from_secs(3600), "all events to be published", || {
        let marks = world.kafka.watermarks(&expired);
        let there: i64 = marks.values().map(|(_, high)| high).sum();
        if there >= i64::try_from(rows).unwrap() { Ok(()) } else { Err(there) }
    });
    eventually(Duration::from_secs(600), "the outbox to be empty", || {
        match session.number("SELECT count(*) FROM ingest.outbox") {
            0 => Ok(()),
            some => Err(some),
        }
    });
    let end_time = session.number("SELECT (extract(epoch FROM clock_timestamp()) * 1e6)::bigint");
    let end = Instant::now();
    let wal = session.wal() - wal;
    let seen = pulse.finish();
    let left = "SELECT count(*) FROM public.voice_clone_cache
                WHERE deleted_at IS NULL AND ttl_expires_at < now() AT TIME ZONE 'utc'";
    assert_eq!(session.number(left), 0, "rows that are due and not expired");
    let micros = |which: &str| {
        let moment = format!("extract(epoch FROM {which}(deleted_at)) * 1e6");
        session.number(&format!("SELECT ({moment})::bigint FROM public.voice_clone_cache"))
    };
    let (first, last) = (micros("min"), micros("max"));
    drop(daemon);
    topics.delete(world);
    Expiry {
        rows,
        expired_seconds: (last - first) as f64 / 1e6,
        published_seconds: (end_time - first) as f64 / 1e6,
        wal_bytes: wal as f64,
        before: seen.times(start, due),
        meanwhile: seen.times(due, end),
    }
}

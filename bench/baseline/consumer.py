"""A consumer as a team would write it in an afternoon: clone.ready into its three tables, in batches, with the offsets in
the same transaction. It decodes only the records of the benchmark: no dead letters, no transfers, no retries."""

import asyncio
import os
import signal
import uuid
from datetime import datetime, timedelta, timezone

import asyncpg
import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener

NS = uuid.UUID("32912be5-e948-560b-b792-7dcb8baa72b1")
GROUP, TOPIC = os.environ["KAFKA_GROUP_ID"], os.environ["TOPIC"]
BATCH = int(os.environ["BATCH_MAX_RECORDS"])

EVENTS = """INSERT INTO clone_ready_events AS t
    (id, caller_id, greeting_call_id, cloned_voice_id, clone_duration_ms, ready_at, created_at)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::int[], $6::timestamp[], $7::timestamp[])
    ON CONFLICT (id) DO UPDATE SET clone_duration_ms = excluded.clone_duration_ms, ready_at = excluded.ready_at,
        created_at = LEAST(t.created_at, excluded.created_at)"""
LOG = """INSERT INTO voice_clone_log AS t (id, caller_id, cloned_voice_id, clone_created_at, api_response_time_ms,
    sample_file_size_bytes, created_at, status)
    SELECT *, 'success' FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamp[], $5::int[], $6::int[],
        $7::timestamp[])
    ON CONFLICT (id) DO UPDATE SET clone_created_at = excluded.clone_created_at,
        api_response_time_ms = excluded.api_response_time_ms,
        sample_file_size_bytes = excluded.sample_file_size_bytes, created_at = LEAST(t.created_at, excluded.created_at)"""
CACHE = """INSERT INTO voice_clone_cache AS t (id, caller_id, cloned_voice_id, clone_created_at, ttl_expires_at,
    last_used_at, created_at)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamp[], $5::timestamp[], $6::timestamp[],
        $7::timestamp[])
    ON CONFLICT (id) DO UPDATE SET clone_created_at = LEAST(t.clone_created_at, excluded.clone_created_at),
        ttl_expires_at = GREATEST(t.ttl_expires_at, excluded.ttl_expires_at),
        last_used_at = GREATEST(t.last_used_at, excluded.last_used_at),
        created_at = LEAST(t.created_at, excluded.created_at)"""
FIRST_OFFSET = """INSERT INTO ingest.consumer_offsets AS t (group_id, topic, partition, next_offset)
    VALUES ($1, $2, $3, 0) ON CONFLICT (group_id, topic, partition) DO UPDATE SET next_offset = t.next_offset
    RETURNING next_offset"""
OFFSETS = """UPDATE ingest.consumer_offsets o SET next_offset = u.next_offset
    FROM unnest($3::int[], $4::bigint[]) AS u (partition, next_offset)
    WHERE o.group_id = $1 AND o.topic = $2 AND o.partition = u.partition"""


def time(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc).replace(tzinfo=None)


def rows(messages):
    """The rows of the three tables by id. The last record of a row counts, as a statement may not update a row twice."""
    events, log, cache = {}, {}, {}
    for message in messages:
        e = orjson.loads(message.value)
        caller, voice, ready, took = e["caller_id"], e["cloned_voice_id"], time(e["ready_at"]), e["clone_duration_ms"]
        created = datetime.fromtimestamp(message.timestamp / 1000, timezone.utc).replace(tzinfo=None)
        id = uuid.uuid5(NS, "\x1f".join(("clone.ready", caller, e["greeting_call_id"], voice)))
        made = time(e["clone_created_at"])
        events[id] = (id, caller, e["greeting_call_id"], voice, took, ready, created)
        id = uuid.uuid5(NS, f"voice_clone_log\x1f{id}")
        log[id] = (id, caller, voice, made, e["api_response_time_ms"], e["sample_file_size_bytes"], created)
        id = uuid.uuid5(NS, "\x1f".join(("voice_clone_cache", caller, voice)))
        cache[id] = (id, caller, voice, made, ready + timedelta(seconds=e["ttl_seconds"]), ready, created)
    return events, log, cache


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    connection_free = asyncio.Lock()
    db = await asyncpg.connect(os.environ["DATABASE_URL"])
    consumer = AIOKafkaConsumer(bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"], group_id=GROUP,
                                enable_auto_commit=False, auto_offset_reset="earliest", max_poll_records=BATCH,
                                max_partition_fetch_bytes=4 << 20)

    class Listener(ConsumerRebalanceListener):
        async def on_partitions_revoked(self, revoked):
            pass

        async def on_partitions_assigned(self, assigned):
            async with connection_free:
                for tp in assigned:
                    consumer.seek(tp, await db.fetchval(FIRST_OFFSET, GROUP, tp.topic, tp.partition))

    consumer.subscribe([TOPIC], listener=Listener())
    await consumer.start()
    while not stop.is_set():
        polled = await consumer.getmany(timeout_ms=100, max_records=BATCH)
        messages = [message for batch in polled.values() for message in batch]
        if not messages:
            continue
        async with connection_free, db.transaction():
            for sql, table in zip((EVENTS, LOG, CACHE), rows(messages)):
                await db.execute(sql, *zip(*table.values()))
            await db.execute(OFFSETS, GROUP, TOPIC, [tp.partition for tp in polled],
                             [batch[-1].offset + 1 for batch in polled.values()])
    await consumer.stop()
    await db.close()


asyncio.run(main())

//! Counts of the rows that hold a caller, without showing them. Raw SQL: Diesel has no WITH.

use std::time::Duration;

use diesel::sql_types::{Array, BigInt, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection as _};
use serde::Serialize;

use super::{Fault, Store};

/// Number of rows of one place that hold a caller. A row is counted once, by the first of the three counts that finds
/// it.
#[derive(diesel::QueryableByName, Serialize, Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The table.
    #[diesel(sql_type = Text)]
    pub place: String,
    /// Rows (in the outbox: events) with the caller's id in the column for it.
    #[diesel(sql_type = BigInt)]
    pub by_caller: i64,
    /// Rows joined by the id of a call, a greeting or a voice of the caller.
    #[diesel(sql_type = BigInt)]
    pub by_call_or_voice: i64,
    /// Rows whose texts or bytes contain the caller's id.
    #[diesel(sql_type = BigInt)]
    pub by_text: i64,
}

impl Place {
    /// The sum of the three counts.
    pub fn total(&self) -> i64 {
        self.by_caller + self.by_call_or_voice + self.by_text
    }
}

/// `$1` is the caller's id, `$2` the patterns that are searched for in texts. A transfer by a voice that several
/// callers share leads to calls of other callers, which do not count.
const COUNT: &str = r#"
WITH own AS (
    SELECT 'call' AS kind, call_id AS id FROM public.call_log WHERE caller_id = $1
    UNION SELECT 'call', greeting_call_id FROM public.clone_ready_events WHERE caller_id = $1
    UNION SELECT 'call', greeting_call_id FROM public.clone_failed_events WHERE caller_id = $1
    UNION SELECT 'voice', cloned_voice_id FROM public.clone_ready_events WHERE caller_id = $1
    UNION SELECT 'voice', cloned_voice_id FROM public.voice_clone_cache WHERE caller_id = $1
    UNION SELECT 'voice', cloned_voice_id FROM public.voice_clone_log WHERE caller_id = $1
    UNION SELECT 'voice', cloned_voice_id FROM public.call_log WHERE caller_id = $1
), transfers AS MATERIALIZED (
    SELECT greeting_call_id, agent_call_id FROM public.clone_transfer_events
    WHERE greeting_call_id IN (SELECT id FROM own WHERE kind = 'call')
       OR agent_call_id IN (SELECT id FROM own WHERE kind = 'call')
       OR cloned_voice_id IN (SELECT id FROM own WHERE kind = 'voice')
), calls AS MATERIALIZED (
    SELECT id FROM (
        SELECT id FROM own WHERE kind = 'call'
        UNION SELECT greeting_call_id FROM transfers
        UNION SELECT agent_call_id FROM transfers) AS c
    WHERE id IS NOT NULL AND NOT EXISTS (
        SELECT FROM public.call_log l WHERE l.call_id = c.id AND l.caller_id <> $1)
), voices AS MATERIALIZED (
    SELECT id FROM own WHERE kind = 'voice' AND id IS NOT NULL
), needles AS MATERIALIZED (
    SELECT text, convert_to(text, 'UTF8') AS bytes FROM unnest($2) AS n (text)
), ids AS MATERIALIZED (
    SELECT convert_to(id, 'UTF8') AS bytes, convert_to(to_json(id)::text, 'UTF8') AS json
    FROM (SELECT id FROM calls UNION SELECT id FROM voices) AS i
), letters AS MATERIALIZED (
    SELECT count(*) FILTER (WHERE found = 'text') AS by_text, count(*) FILTER (WHERE found = 'id') AS by_id
    FROM (SELECT CASE
        WHEN EXISTS (SELECT FROM needles n WHERE position(n.bytes IN l.key) > 0 OR position(n.bytes IN l.value) > 0
                     OR position(n.text IN l.note) > 0
                     OR EXISTS (SELECT FROM unnest(l.headers) AS h (bytes) WHERE position(n.bytes IN h.bytes) > 0))
            THEN 'text'
        WHEN EXISTS (SELECT FROM ids i WHERE l.key = i.bytes OR position(i.json IN l.value) > 0
                     OR i.bytes = ANY (l.headers))
            THEN 'id'
        END AS found FROM ingest.dead_letters l OFFSET 0) AS looked_at
)
SELECT * FROM (VALUES
    ('caller_voice_mapping',
     (SELECT count(*) FROM public.caller_voice_mapping WHERE caller_id = $1), 0,
     (SELECT count(*) FROM public.caller_voice_mapping t WHERE caller_id IS DISTINCT FROM $1 AND EXISTS (
        SELECT FROM needles n WHERE position(n.text IN concat_ws(' ', voice_sample_url, voice_name, t.description)) > 0))),
    ('voice_clone_cache', (SELECT count(*) FROM public.voice_clone_cache WHERE caller_id = $1), 0, 0),
    ('call_log',
     (SELECT count(*) FROM public.call_log WHERE caller_id = $1),
     (SELECT count(*) FROM public.call_log WHERE caller_id IS NULL AND call_id IN (SELECT id FROM calls)),
     (SELECT count(*) FROM public.call_log WHERE caller_id IS DISTINCT FROM $1
        AND NOT (caller_id IS NULL AND call_id IN (SELECT id FROM calls)) AND EXISTS (
            SELECT FROM needles n WHERE position(n.text IN transcript) > 0 OR position(n.text IN metadata::text) > 0))),
    ('voice_clone_log',
     (SELECT count(*) FROM public.voice_clone_log WHERE caller_id = $1), 0,
     (SELECT count(*) FROM public.voice_clone_log WHERE caller_id IS DISTINCT FROM $1 AND EXISTS (
        SELECT FROM needles n WHERE position(n.text IN error_message) > 0))),
    ('clone_ready_events', (SELECT count(*) FROM public.clone_ready_events WHERE caller_id = $1), 0, 0),
    ('clone_failed_events',
     (SELECT count(*) FROM public.clone_failed_events WHERE caller_id = $1), 0,
     (SELECT count(*) FROM public.clone_failed_events WHERE caller_id IS DISTINCT FROM $1 AND EXISTS (
        SELECT FROM needles n WHERE position(n.text IN error_message) > 0))),
    ('clone_transfer_events', 0, (SELECT count(*) FROM transfers), 0),
    ('ingest.mappings', (SELECT count(*) FROM ingest.mappings WHERE caller_id = $1), 0, 0),
    ('ingest.calls', 0, (SELECT count(*) FROM ingest.calls WHERE call_id IN (SELECT id FROM calls)), 0),
    ('ingest.voices', 0, (SELECT count(*) FROM ingest.voices WHERE cloned_voice_id IN (SELECT id FROM voices)), 0),
    ('ingest.outbox', (SELECT count(*) FROM ingest.outbox, unnest(caller_ids) AS c (id) WHERE c.id = $1), 0, 0),
    ('ingest.dead_letters', 0, (SELECT by_id FROM letters), (SELECT by_text FROM letters)),
    ('ingest.skips', 0, 0, (SELECT count(*) FROM ingest.skips s WHERE EXISTS (
        SELECT FROM needles n WHERE position(n.text IN s.note) > 0)))
) AS places (place, by_caller, by_call_or_voice, by_text)
"#;

/// The settings of the search. Texts and transfers by voice have no index, so whole tables are read, and a daemon's
/// session, which looks rows up, would read them in the order of an index. One process of the server does it, so that
/// the others are left to consuming. It takes no lock that a write waits for. `{limit}` is in milliseconds; a server on
/// Linux also ends the search when the client is gone.
const BEGIN: &str = "BEGIN TRANSACTION READ ONLY;
    SET LOCAL enable_seqscan TO on; SET LOCAL enable_hashjoin TO on; SET LOCAL enable_mergejoin TO on;
    SET LOCAL max_parallel_workers_per_gather TO 0;
    SET LOCAL statement_timeout TO {limit};
    SELECT set_config('client_connection_check_interval', '5s', true) WHERE version() LIKE '%linux%'";

impl Store {
    /// Counts the rows that hold a caller, in one statement, for at most this long. `needles` are the forms in which
    /// texts and bytes may contain the caller's id.
    pub async fn whereabouts(
        &self,
        caller_id: &str,
        needles: &[String],
        limit: Duration,
    ) -> Result<Vec<Place>, Fault> {
        let mut connection = self.connection().await?;
        connection.batch_execute(&BEGIN.replace("{limit}", &limit.as_millis().to_string())).await?;
        let places = diesel::sql_query(COUNT).bind::<Text, _>(caller_id).bind::<Array<Text>, _>(needles);
        let places = places.load(&mut connection).await;
        connection.batch_execute("ROLLBACK").await?;
        Ok(places?)
    }
}

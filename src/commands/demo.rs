//! `demo`: everything at once, on an embedded broker and a throw-away PostgreSQL.

use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use chrono::Utc;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pgtemp::{PgTempDB, PgTempDBBuilder};
use serde_json::{Map, Value};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::daemon;
use crate::kafka;
use crate::kafka::embedded::Broker;
use crate::kafka::send::Sender;
use crate::output::{print, say};
use crate::record::Outgoing;
use crate::store::overview::{Overview, TABLES};
use crate::store::{Store, connect, migrate};
use crate::traffic::{Scenario, traffic};

/// What `demo` is asked for.
#[allow(missing_docs, reason = "the flags of the command")]
pub struct Options {
    pub calls: u64,
    pub seed: u64,
    pub keep: bool,
    pub disorder: bool,
}

/// Partitions of each topic.
const PARTITIONS: i32 = 2;
/// So many records are sent together.
const CHUNK: usize = 250;
/// So many records at most are sent and not yet consumed: the broker keeps only its latest ones.
const AHEAD: u64 = 2000;
/// How often it is looked at what has happened.
const LOOK: Duration = Duration::from_millis(200);
/// Between two lines where there is no terminal.
const REPORT: Duration = Duration::from_secs(1);
/// Nothing has changed for so long: something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long half of the voices live, from their event on.
const SHORT_TTL: i32 = 3;
/// How often the demo's daemon expires.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(2);
/// The daemon's consumer group, whose positions are counted.
const GROUP: &str = "voiceclone-events";
/// Mean time between two calls, in milliseconds; less where they would not fit into [`SPAN_MS`].
const SPACING_MS: i64 = 1000;
/// All calls happened within half a day, in milliseconds: only voices with a short life have expired by then.
const SPAN_MS: i64 = 43_200_000;
/// About how long the last call goes on, in milliseconds.
const LAST_CALL_MS: i64 = 300_000;
/// Rows of each table that are shown.
const SAMPLE: i64 = 3;
/// The width where there is no terminal to ask.
const WIDTH: u16 = 120;

/// Which columns of which table are shown.
const SHOWN: [(&str, &[&str]); 8] = [
    ("caller_voice_mapping", &["caller_id", "voice_name", "account_id", "updated_at"]),
    ("voice_clone_cache", &["caller_id", "cloned_voice_id", "reuse_count", "ttl_expires_at", "deleted_at"]),
    ("call_log", &["call_id", "caller_id", "status", "duration_seconds", "call_started_at"]),
    ("voice_clone_log", &["caller_id", "cloned_voice_id", "status", "api_response_time_ms", "error_message"]),
    ("clone_ready_events", &["caller_id", "cloned_voice_id", "clone_duration_ms", "ready_at"]),
    ("clone_failed_events", &["caller_id", "greeting_call_id", "error_message", "failed_at"]),
    ("clone_transfer_events", &["greeting_call_id", "agent_call_id", "cloned_voice_id", "transferred_at"]),
    ("ingest.dead_letters", &["topic", "partition", "record_offset", "reason", "message"]),
];

/// Shows everything: starts broker and PostgreSQL, migrates, sends, consumes and expires, and shows the tables.
/// Leaves nothing behind.
pub async fn run(settings: &Settings, options: Options, cancel: CancellationToken) -> anyhow::Result<()> {
    say("Starting a PostgreSQL and a broker of their own ...");
    let builder = postgres()?;
    let started = spawn_blocking(move || builder.start()).await;
    let postgres = match started {
        Ok(postgres) => postgres,
        Err(_) if interrupted(&cancel).await => return Ok(()),
        Err(error) => {
            let why = match error.try_into_panic() {
                Ok(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            bail!("PostgreSQL could not be started: {}", why.trim());
        }
    };
    let mut result = show(settings, &options, &postgres.connection_uri(), &cancel).await;
    if result.is_err() && interrupted(&cancel).await {
        result = Ok(());
    }
    spawn_blocking(move || drop(postgres)).await.context("PostgreSQL could not be stopped")?;
    if result.is_ok() {
        say("Broker and database are gone; nothing is left behind.");
    }
    result
}

/// Whether an error is due to Ctrl-C: on a terminal that goes to PostgreSQL, too, and may end it before this
/// program hears of it.
async fn interrupted(cancel: &CancellationToken) -> bool {
    let interrupted = tokio::time::timeout(REPORT, cancel.cancelled()).await.is_ok();
    if interrupted {
        say("Interrupted.");
    }
    interrupted
}

async fn show(
    settings: &Settings,
    options: &Options,
    url: &str,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let broker = Broker::start(&kafka::topic_names(settings), PARTITIONS)?;
    let settings = Settings {
        database_url: url.to_owned(),
        kafka_bootstrap_servers: broker.servers(),
        kafka_group_id: GROUP.to_owned(),
        expiry_interval: EXPIRY_INTERVAL,
        http_addr: if options.keep { Some(free_address()?) } else { None },
        ..settings.clone()
    };
    let store = Store::new(connect::pool(&settings)?);
    tokio::select! {
        reached = reached(&store) => reached?,
        () = cancel.cancelled() => bail!("interrupted"),
    }
    let migrations = migrate::up(url, None).await?;
    say(format!("The database is migrated ({}).", migrations.join(", ")));
    say(format!("Look at it while it runs: psql '{url}'"));
    if let Some(address) = settings.http_addr {
        say(format!("Its page: http://{address}/"));
    }

    let stop = cancel.child_token();
    let (ours, token) = (settings.clone(), stop.clone());
    let mut daemon = tokio::spawn(async move { daemon::run(&ours, false, token).await });
    let mut shown = follow(&settings, options, &store, &mut daemon, cancel).await;
    if shown.is_ok() {
        shown = show_tables(&settings, &store, cancel).await;
    }
    stop.cancel();
    // where it has ended by itself, `follow` has told why
    if !daemon.is_finished() {
        daemon.await??;
    }
    drop(broker);
    shown
}

/// A port on which nothing listens now.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("there is no free port for the page")?;
    Ok(listener.local_addr()?)
}

/// The server takes connections a moment after its start.
async fn reached(store: &Store) -> anyhow::Result<()> {
    let started = Instant::now();
    while let Err(fault) = store.reach().await {
        if started.elapsed() > PATIENCE {
            bail!("PostgreSQL was started, but cannot be reached: {fault}");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Sends the traffic and shows what becomes of it, until all has been done or `cancel`.
async fn follow(
    settings: &Settings,
    options: &Options,
    store: &Store,
    daemon: &mut JoinHandle<anyhow::Result<()>>,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let sender = Sender::new(settings)?;
    let mut records = traffic(&plan(options)).map(|sent| sent.record).peekable();
    let mut sent = 0_u64;
    let mut view = View::new();
    let mut last = (0, Overview::default());
    let mut changed = Instant::now();
    let mut interval = tokio::time::interval(LOOK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = cancel.cancelled() => return Ok(()),
            ended = &mut *daemon => {
                ended??;
                bail!("the daemon has ended before its time");
            }
        }
        let now = match store.overview(&settings.kafka_group_id).await {
            Ok(now) => now,
            Err(fault) => bail!("the database cannot be looked at: {fault}"),
        };
        let consumed = u64::try_from(now.consumed).unwrap_or_default();
        view.at(sent, &now);
        let waiting = now.overdue + now.outbox + now.unpublished;
        if records.peek().is_none() && consumed == sent && waiting == 0 {
            view.end(sent, &now);
            return Ok(());
        }
        if last != (sent, now.clone()) {
            (last, changed) = ((sent, now), Instant::now());
        } else if changed.elapsed() > PATIENCE {
            bail!(
                "nothing has happened for {} s, {consumed} of {sent} records are consumed: try again with \
                 RUST_LOG=info, which says why",
                PATIENCE.as_secs()
            );
        }
        while sent.saturating_sub(consumed) < AHEAD {
            let chunk: Vec<Outgoing> = records.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                break;
            }
            if let Some(error) = sender.send_all(&chunk).await.into_iter().find_map(Result::err) {
                bail!("the embedded broker did not take a record: {error}");
            }
            sent += chunk.len() as u64;
        }
    }
}

/// Calls that have just ended, of whose voices half are already past their time.
fn plan(options: &Options) -> Scenario {
    let many = i64::try_from(options.calls).unwrap_or(i64::MAX).max(1);
    let spacing_ms = (SPAN_MS / many).clamp(1, SPACING_MS);
    let start = Utc::now().timestamp_millis() - spacing_ms.saturating_mul(many).min(SPAN_MS) - LAST_CALL_MS;
    Scenario {
        calls: options.calls,
        seed: options.seed,
        disorder: options.disorder,
        start,
        spacing_ms,
        ttl_seconds: Some(SHORT_TTL),
    }
}

/// What happens: a live view on a terminal, else a line at each change.
struct View {
    bar: Option<ProgressBar>,
    reported: Option<Instant>,
    line: String,
}

impl View {
    fn new() -> View {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(LOOK);
            bar
        });
        View { bar, reported: None, line: String::new() }
    }

    fn at(&mut self, sent: u64, now: &Overview) {
        match &self.bar {
            Some(bar) => bar.set_message(live(sent, now)),
            None if self.reported.is_none_or(|reported| reported.elapsed() >= REPORT) => self.say(sent, now),
            None => {}
        }
    }

    fn say(&mut self, sent: u64, now: &Overview) {
        let line = line(sent, now);
        if line != self.line {
            say(&line);
            self.line = line;
            self.reported = Some(Instant::now());
        }
    }

    fn end(mut self, sent: u64, now: &Overview) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.say(sent, now);
    }
}

impl Drop for View {
    /// An error is to stand on a line of its own.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(sent: u64, now: &Overview) -> String {
    format!(
        "{sent} records sent, {} consumed, {} rows in {} tables, {} expired, {} dead letters",
        now.consumed,
        now.rows.iter().sum::<i64>(),
        TABLES.len(),
        now.expired,
        now.dead_letters
    )
}

fn live(sent: u64, now: &Overview) -> String {
    let consumed = u64::try_from(now.consumed).unwrap_or_default();
    let mut lines = vec![format!("{sent} records sent, {consumed} consumed")];
    lines.extend(TABLES.iter().zip(&now.rows).map(|(table, rows)| format!("  {table:<22} {rows:>8} rows")));
    lines.push(format!("  {:<22} {:>8}, {} to be published", "expired", now.expired, now.outbox));
    lines.push(format!(
        "  {:<22} {:>8}, {} to be published",
        "dead letters", now.dead_letters, now.unpublished
    ));
    lines.join("\n")
}

async fn show_tables(settings: &Settings, store: &Store, cancel: &CancellationToken) -> anyhow::Result<()> {
    if cancel.is_cancelled() {
        say("Interrupted.");
        return Ok(());
    }
    let all = store.overview(GROUP).await.map_err(|fault| anyhow!("{fault}"))?;
    let mut counts = Table::new();
    counts.load_preset(UTF8_FULL_CONDENSED).set_header(["table", "rows", ""]);
    for (table, rows) in TABLES.iter().zip(&all.rows) {
        let note = if *table == "voice_clone_cache" && all.expired > 0 {
            format!("{} of them expired", all.expired)
        } else {
            String::new()
        };
        counts.add_row([(*table).to_owned(), rows.to_string(), note]);
    }
    counts.add_row(["ingest.dead_letters".to_owned(), all.dead_letters.to_string(), String::new()]);
    if let Some(column) = counts.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    print(counts)?;
    for (table, columns) in SHOWN {
        let rows = store.sample(table, SAMPLE).await.map_err(|fault| anyhow!("{fault}"))?;
        if !rows.is_empty() {
            print(format!("\n{table}\n{}", sample(columns, &rows)))?;
        }
    }
    if let Some(address) = settings.http_addr {
        let (servers, url) = (&settings.kafka_bootstrap_servers, &settings.database_url);
        print(format!(
            "\nBroker ({servers}), database and daemon keep running. Look further at http://{address}/ and with\n\n  \
             psql '{url}'\n"
        ))?;
        print("Ctrl-C ends them.")?;
        cancel.cancelled().await;
    } else {
        print("\nTo look further with psql, give --keep: broker and database then run until Ctrl-C.")?;
    }
    Ok(())
}

/// Rows, each the text of a JSON object, cut to the terminal's width.
fn sample(columns: &[&str], rows: &[String]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    let width = usize::from(table.width().unwrap_or(WIDTH));
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let row: Map<String, Value> = serde_json::from_str(row).unwrap_or_default();
            columns.iter().map(|column| written(column, row.get(*column))).collect()
        })
        .collect();
    // each column has a border and two blanks
    let room = width.saturating_sub(3 * columns.len() + 1);
    let needed = |most: usize| -> usize {
        let widest = |place: usize| {
            cells.iter().filter_map(|row| row.get(place)).map(|cell| cell.chars().count().min(most)).max()
        };
        columns
            .iter()
            .enumerate()
            .map(|(place, column)| widest(place).unwrap_or(0).max(column.chars().count().min(most)))
            .sum()
    };
    let mut most = 60;
    while most > 6 && needed(most) > room {
        most -= 1;
    }
    table.set_header(columns.iter().map(|column| cut(column, most)));
    for row in &cells {
        table.add_row(row.iter().map(|cell| cut(cell, most)));
    }
    table
}

fn written(column: &str, value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) if column.ends_with("_at") => {
            text.split('.').next().unwrap_or(text).replace('T', " ")
        }
        Some(Value::String(text)) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        Some(value) => value.to_string(),
    }
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A throw-away server, not yet started.
fn postgres() -> anyhow::Result<PgTempDBBuilder> {
    let Some(programs) = postgres_programs() else {
        bail!("PostgreSQL is not installed: install the package postgresql, or run `make setup`");
    };
    // PostgreSQL refuses to run as root: pgtemp then takes sudo to become another user.
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if is_root && !on_path().any(|folder| folder.join("sudo").is_file()) {
        bail!(
            "PostgreSQL does not run as root, and sudo, with which it would run as the user postgres, is not \
             installed: install the package sudo, or run `make setup`, or run this as another user"
        );
    }
    // pgtemp leaves the server's standard error unread, and a full pipe would stop the server
    let builder = PgTempDB::builder().with_bin_path(programs).with_config_param("logging_collector", "on");
    // Without a locale in the environment the encoding would be SQL_ASCII.
    Ok(builder.with_initdb_arg("--encoding", "UTF8"))
}

fn on_path() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).collect::<Vec<_>>().into_iter()
}

/// Where `initdb` and `postgres` are: on the path, else Debian's folder of the newest version.
fn postgres_programs() -> Option<PathBuf> {
    let has = |folder: &Path| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    if let Some(folder) = on_path().find(|folder| folder.is_absolute() && has(folder)) {
        return Some(folder);
    }
    std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let folder = entry.path().join("bin");
            has(&folder).then_some((version, folder))
        })
        .max()
        .map(|(_, folder)| folder)
}

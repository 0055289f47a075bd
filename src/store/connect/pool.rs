//! The pool. A connection is checked before its first statement counts: that it is alive, that it takes writes, and
//! that the same server process still serves it.

mod error_log;

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diesel::result::DatabaseErrorKind;
use diesel_async::pooled_connection::PoolableConnection;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::sync::watch;

use self::error_log::ErrorLog;
use super::session::{Trial, pooler};
use super::{ConnectError, Opened, open};
use crate::config::Settings;
use crate::database_url::{self, CONNECT_TIMEOUT, ParsedUrl};
use crate::outage;

/// How long a caller waits for a connection.
const GET_TIMEOUT: Duration = CONNECT_TIMEOUT;
/// Time for a connection to answer the check before it is used. A silent one is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// An unused connection is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection to a server that takes no writes is closed after this time, to look for one that does.
const READ_ONLY_TIMEOUT: Duration = Duration::from_secs(5);

/// The subject of the log lines about a database that cannot be reached.
const SUBJECT: &str = "PostgreSQL";

/// Connections to PostgreSQL.
#[derive(Clone)]
pub struct Pool {
    pool: bb8::Pool<Manager>,
    max_size: u32,
    shared: Arc<PoolShared>,
}

/// A connection taken from the pool.
pub struct Pooled<'p>(bb8::PooledConnection<'p, Manager>);

/// Creates a pool of at most `DB_POOL_SIZE` and `DB_MAX_OVERFLOW` connections together.
///
/// It starts without a database, and connects in the background. It must be called within a tokio runtime.
/// Connections are handed out newest first. Connections beyond `DB_POOL_SIZE` that nobody
/// has used for a minute are closed. A caller waits at most five seconds.
pub fn pool(settings: &Settings) -> anyhow::Result<Pool> {
    let pool = waiting_pool(settings)?;
    pool.fill();
    Ok(pool)
}

/// Creates a pool that opens no connection before [`Pool::fill`].
pub fn waiting_pool(settings: &Settings) -> anyhow::Result<Pool> {
    let target = database_url::parse(&settings.database_url)
        .map_err(|problem| anyhow::anyhow!("DATABASE_URL {problem}"))?;
    let servers: Vec<String> = target.places.iter().map(ToString::to_string).collect();
    outage::locate(SUBJECT, servers.join(", "));
    let size = settings.db_pool_size.saturating_add(settings.db_max_overflow).max(1);
    let shared = Arc::new(PoolShared::default());
    let manager = Manager { target, shared: Arc::clone(&shared) };
    let pool = bb8::Pool::builder()
        .max_size(size)
        .min_idle(Some(settings.db_pool_size))
        .idle_timeout(IDLE_TIMEOUT)
        .connection_timeout(GET_TIMEOUT)
        .test_on_check_out(true)
        .queue_strategy(bb8::QueueStrategy::Lifo)
        .error_sink(Box::new(ErrorLog(Arc::clone(&shared))))
        .build_unchecked(manager);
    Ok(Pool { pool, max_size: size, shared })
}

impl Pool {
    /// Lets the pool open its connections.
    pub fn fill(&self) {
        self.shared.may_fill.send_replace(true);
    }

    /// Whether [`Pool::fill`] was called.
    pub fn is_filled(&self) -> bool {
        *self.shared.may_fill.borrow()
    }

    /// Returns a connection that has just answered. The error says why there is none.
    pub async fn get(&self) -> Result<Pooled<'_>, String> {
        let connection = self.take().await?;
        outage::recovered(SUBJECT);
        Ok(connection)
    }

    /// Returns a connection that has not been checked, for a transaction that begins in the round trip of
    /// [`Pooled::check`] and commits only after its answer.
    pub async fn get_unchecked(&self) -> Result<Pooled<'_>, String> {
        CHECKED_BY_USER.scope((), self.take()).await
    }

    async fn take(&self) -> Result<Pooled<'_>, String> {
        match self.pool.get().await {
            Ok(connection) => {
                self.shared.note_use(connection.id, Some(Instant::now()));
                Ok(Pooled(connection))
            }
            Err(bb8::RunError::User(failed)) => Err(failed.refusal.to_string()),
            Err(bb8::RunError::TimedOut) => {
                let reason = self.shared.state().refusal.clone();
                let reason = reason.unwrap_or_else(|| "all connections of the pool are in use".to_owned());
                Err(format!("none within {} s ({reason})", GET_TIMEOUT.as_secs()))
            }
        }
    }

    /// Numbers of connections, and of those that were closed.
    pub fn statistics(&self) -> bb8::State {
        self.pool.state()
    }

    /// `DB_POOL_SIZE` and `DB_MAX_OVERFLOW`.
    pub fn max_size(&self) -> u32 {
        self.max_size
    }

    /// The server processes of the connections that have been in use for longer than `time`.
    pub fn in_use_for(&self, time: Duration) -> Vec<i32> {
        let state = self.shared.state();
        let long = |open: &&OpenConnection| open.used_since.is_some_and(|since| since.elapsed() > time);
        state.open.values().filter(long).map(|open| open.backend).collect()
    }
}

impl Pooled<'_> {
    /// Checks the connection. One that fails must not be used again; it is to be dropped within a transaction, which
    /// closes it.
    pub async fn check(&self) -> Result<(), String> {
        match self.0.check().await {
            Ok(()) => {
                outage::recovered(SUBJECT);
                Ok(())
            }
            Err(failed) => {
                let reason = failed.refusal.to_string();
                bb8::ErrorSink::sink(&ErrorLog(Arc::clone(&self.0.shared)), failed);
                Err(reason)
            }
        }
    }

    /// Notes a transaction that Diesel's transaction manager does not know. A connection that is returned with one is
    /// closed, which rolls it back.
    pub fn set_in_transaction(&mut self, is_open: bool) {
        self.0.in_transaction = is_open;
    }
}

impl Deref for Pooled<'_> {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        &self.0.connection
    }
}

impl DerefMut for Pooled<'_> {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        &mut self.0.connection
    }
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        self.0.shared.note_use(self.0.id, None);
    }
}

/// State that the connections of a pool share.
#[derive(Default)]
struct PoolShared {
    may_fill: watch::Sender<bool>,
    trial: Trial,
    next_id: AtomicU64,
    /// Whether the log says that there are fewer connections than the settings allow.
    is_short: AtomicBool,
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    open: BTreeMap<u64, OpenConnection>,
    /// The server of the newest connection.
    server: Option<String>,
    /// Why the last attempt to connect failed.
    refusal: Option<String>,
    /// Whether the last connection that was checked has answered.
    answers: bool,
}

struct OpenConnection {
    backend: i32,
    used_since: Option<Instant>,
}

impl PoolShared {
    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_use(&self, id: u64, since: Option<Instant>) {
        if let Some(open) = self.state().open.get_mut(&id) {
            open.used_since = since;
        }
    }

    fn note_new(&self, opened: &Opened) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.trial.note_open(opened.facts.backend);
        let mut state = self.state();
        state.refusal = None;
        state.answers = true;
        state.open.insert(id, OpenConnection { backend: opened.facts.backend, used_since: None });
        let server = Some(opened.facts.server.clone());
        if state.server != server {
            let is_first = state.server.is_none();
            state.server = server;
            drop(state);
            if !is_first {
                tracing::info!(
                    server = opened.place,
                    "PostgreSQL is another server than before, or was restarted"
                );
            }
        }
        id
    }

    fn note_end(&self, id: u64) {
        if let Some(open) = self.state().open.remove(&id) {
            self.trial.note_closed(open.backend);
        }
    }
}

/// A connection, with the facts noted when it was opened.
pub(super) struct Session {
    connection: AsyncPgConnection,
    id: u64,
    place: String,
    backend: i32,
    read_only: bool,
    /// Whether a session that turns read-only is no longer good.
    wants_writes: bool,
    opened: Instant,
    in_transaction: bool,
    shared: Arc<PoolShared>,
}

impl Session {
    /// One round trip, as the connection caches the statement.
    async fn check(&self) -> Result<(), Failed> {
        let place = &self.place;
        let question = diesel::select((pg_backend_pid(), current_setting("transaction_read_only")));
        let mut connection = &self.connection;
        let answer = question.get_result::<(i32, String)>(&mut connection);
        let (backend, read_only) = match tokio::time::timeout(PING_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                // another process, which has not prepared the question, may have got it
                if matches!(error, diesel::result::Error::DatabaseError(DatabaseErrorKind::Unknown, _)) {
                    self.shared.trial.doubt();
                }
                return Err(Failed::closes(ConnectError::Away(format!("{place}: {error}"))));
            }
            Err(_) => {
                let silence = format!("{place}: no answer within {} s", PING_TIMEOUT.as_secs());
                return Err(Failed::closes(ConnectError::Away(silence)));
            }
        };
        if backend != self.backend {
            self.shared.trial.doubt();
            let evidence = "the process that serves a session has changed";
            return Err(Failed::closes(ConnectError::Person(pooler(place, evidence))));
        }
        let is_read_only = read_only == "on" && self.wants_writes;
        if is_read_only && (!self.read_only || self.opened.elapsed() > READ_ONLY_TIMEOUT) {
            let refusal = ConnectError::Person(format!("{place} takes no writes any more"));
            return Err(Failed::closes(refusal));
        }
        self.shared.state().answers = true;
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.note_end(self.id);
    }
}

/// Why a connection could not be opened, or can no longer be used.
#[derive(Debug)]
pub(super) struct Failed {
    refusal: ConnectError,
    /// Whether the connection had been open.
    was_open: bool,
}

impl Failed {
    fn closes(refusal: ConnectError) -> Failed {
        Failed { refusal, was_open: true }
    }
}

tokio::task_local! {
    /// Set while a connection is taken whose user checks it.
    static CHECKED_BY_USER: ();
}

pub(super) struct Manager {
    target: ParsedUrl,
    shared: Arc<PoolShared>,
}

diesel::define_sql_function! {
    /// The server process of the session.
    fn pg_backend_pid() -> diesel::sql_types::Integer
}
diesel::define_sql_function! {
    /// The current value of a setting.
    fn current_setting(name: diesel::sql_types::Text) -> diesel::sql_types::Text
}

impl bb8::ManageConnection for Manager {
    type Connection = Session;
    type Error = Failed;

    async fn connect(&self) -> Result<Session, Failed> {
        let mut may_fill = self.shared.may_fill.subscribe();
        // the sender lives as long as `self`
        let _ = may_fill.wait_for(|may| *may).await;
        let opened = open(&self.target, &self.shared.trial)
            .await
            .map_err(|refusal| Failed { refusal, was_open: false })?;
        let id = self.shared.note_new(&opened);
        let Opened { connection, place, facts } = opened;
        Ok(Session {
            connection,
            id,
            place,
            backend: facts.backend,
            read_only: facts.read_only,
            wants_writes: self.target.attrs.wants_writes(),
            opened: Instant::now(),
            in_transaction: false,
            shared: Arc::clone(&self.shared),
        })
    }

    async fn is_valid(&self, session: &mut Session) -> Result<(), Failed> {
        if CHECKED_BY_USER.try_with(|()| ()).is_ok() { Ok(()) } else { session.check().await }
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        std::thread::panicking() || session.in_transaction || session.connection.is_broken()
    }
}

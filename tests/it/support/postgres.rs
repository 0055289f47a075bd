//! A real PostgreSQL: one throw-away server for the whole run with a database for each test, or one of the test's own.
//!
//! `initdb` and `postgres` are started directly, not through the crate `pgtemp`: that cannot start a server again,
//! needs `sudo` where the tests run as root, leaves a pipe unread that a talkative server fills, and knows only `Drop`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::processes::{Process, Signal, command, find_program, folder, free_port};
use super::wait::{SOON, eventually, eventually_eq};
use super::{block_on, unique};

pub(super) const USER: &str = "postgres";
pub const PASSWORD: &str = "throw-away";

/// A fresh, empty database on the server that all tests share. It is dropped with this value, unless the test fails.
pub struct Database {
    name: String,
    url: String,
}

impl Database {
    /// Creates a database.
    pub fn new() -> Database {
        Self::create(shared(), "")
    }

    /// Creates a database that orders texts as in a dictionary (`a` before `B`), not by bytes.
    pub fn with_a_locale() -> Database {
        Self::create(shared(), "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
    }

    /// Creates a database with another encoding than UTF8.
    pub fn with_encoding(encoding: &str) -> Database {
        Self::create(shared(), &format!("TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"))
    }

    /// Creates a database on a server of the test's own.
    pub fn on(server: &PrivateServer) -> Database {
        Self::create(server, "")
    }

    /// This database on a standby of its server.
    pub fn on_standby(&self, standby: &PrivateServer) -> Database {
        Database { url: standby.url(&self.name), name: self.name.clone() }
    }

    /// The name of the database.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn create(server: &PrivateServer, options: &str) -> Database {
        let name = unique("test");
        let url = server.url(&name);
        run(&server.url("postgres"), &format!("CREATE DATABASE {name} {options}"));
        Database { name, url }
    }

    /// Creates a database on the server that has it, with all that this one holds. Nobody may be connected to it.
    pub fn copy(&self, server: &PrivateServer) -> Database {
        let name = unique("test");
        let sql = format!("CREATE DATABASE {name} TEMPLATE {} STRATEGY file_copy", self.name);
        run(&server.url("postgres"), &sql);
        Database { url: server.url(&name), name }
    }

    /// `DATABASE_URL` for the daemon.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The URL with another user and password.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.url.replace(&format!("{USER}:{PASSWORD}@"), &format!("{user}:{password}@"))
    }

    /// A connection, driven by the runtime of the caller.
    pub async fn client(&self) -> Client {
        connect(&self.url).await.unwrap()
    }

    /// Runs statements, separated by `;`, on a connection of their own.
    pub fn run(&self, sql: &str) {
        run(&self.url, sql);
    }

    /// The rows of a query (of the last one, if there are several), each value as text. Plain SQL without Diesel, as other
    /// clients read the tables: a test must not share `schema.rs` with the program that it checks.
    pub fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        rows(&self.url, sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// As [`Database::rows`], with the error as a value.
    pub fn try_rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, String> {
        rows(&self.url, sql).map_err(|error| error.to_string())
    }

    /// The one value of the one row of a query, as text; an empty text where it is null.
    pub fn value(&self, sql: &str) -> String {
        let rows = self.rows(sql);
        assert!(rows.len() == 1 && rows[0].len() == 1, "{sql}: {rows:?}");
        rows[0][0].clone().unwrap_or_default()
    }

    /// Waits until nobody else is connected: what a session has read is counted at its end.
    pub fn wait_until_alone(&self) {
        eventually_eq(SOON, "the other sessions", "0".to_owned(), || {
            self.value(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
        });
    }
}

/// The server of all tests that have none of their own.
fn shared() -> &'static PrivateServer {
    static SHARED: OnceLock<PrivateServer> = OnceLock::new();
    SHARED.get_or_init(|| PrivateServer::start(&[]))
}

impl Drop for Database {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let server = self.url.replace(&format!("/{}", self.name), "/postgres");
            // Where the test has stopped its server there is nothing to drop.
            let _ = rows(&server, &format!("DROP DATABASE {} WITH (FORCE)", self.name));
        }
    }
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn run(url: &str, sql: &str) {
    rows(url, sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn rows(url: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
    let messages = block_on(async { connect(url).await?.simple_query(sql).await })?;
    let mut rows = Vec::new();
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(_) => rows.clear(),
            SimpleQueryMessage::Row(row) => {
                rows.push((0..row.len()).map(|column| row.get(column).map(String::from)).collect());
            }
            _ => {}
        }
    }
    Ok(rows)
}

/// A server of one test's own, which it may stop and start again.
pub struct PrivateServer {
    folder: PathBuf,
    programs: PathBuf,
    port: u16,
    settings: Vec<(String, String)>,
    process: Option<Process>,
    /// Keeps alive the mount namespace in which the data lie on a small disk.
    disk: Option<Process>,
}

impl PrivateServer {
    /// Starts a server, with settings (`postgresql.conf`) of its own besides those that all have.
    ///
    /// # Panics
    /// Where PostgreSQL is not installed, or does not start.
    pub fn start(settings: &[(&str, &str)]) -> PrivateServer {
        Self::start_with_files(settings, &[])
    }

    /// As [`PrivateServer::start`], with files in the data folder that only the server can read, such as the key of
    /// its certificate. They replace what `initdb` puts there (`pg_hba.conf` for one).
    pub fn start_with_files(settings: &[(&str, &str)], files: &[(&str, &str)]) -> PrivateServer {
        let mut server = Self::prepare(settings);
        server.initialize(files);
        server
    }

    /// As [`PrivateServer::start`], with its data on a disk of `megabytes`, which a test can fill and free: memory in a
    /// mount namespace of this server, so that the mount goes away with it. `None` where that is not permitted, as only
    /// root may mount.
    pub fn start_on_small_disk(settings: &[(&str, &str)], megabytes: u32) -> Option<PrivateServer> {
        let mut server = Self::prepare(settings);
        std::fs::create_dir(server.folder.join("disk")).unwrap();
        let mount = format!(
            "mount -t tmpfs -o size={megabytes}m,mode=711 tmpfs disk && chown {USER} disk && echo mounted && \
             exec sleep infinity"
        );
        let mut holder = command("unshare");
        holder.args(["--mount", "sh", "-c", &mount]).current_dir(&server.folder);
        holder.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        let mut holder = Process::spawn(&mut holder, Signal::Kill);
        let mut said = String::new();
        let stdout = holder.child().stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        if said.trim() != "mounted" {
            return None;
        }
        server.disk = Some(holder);
        server.initialize(&[]);
        Some(server)
    }

    /// Starts a standby of a running server, which takes over what that one writes.
    pub fn standby_of(primary: &PrivateServer) -> PrivateServer {
        let mut server = Self::prepare(&[]);
        give_to_postgres(&server.folder);
        let (data, source) = (server.data().display().to_string(), primary.url("postgres"));
        let arguments =
            ["-d", &source, "-D", &data, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"];
        assert!(server.run_program("pg_basebackup", &arguments, SOON * 2), "{}", server.log());
        server.start_again();
        server
    }

    fn prepare(settings: &[(&str, &str)]) -> PrivateServer {
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let (folder, programs) = (folder("postgres"), find_programs());
        PrivateServer { folder, programs, port: free_port(), settings, process: None, disk: None }
    }

    fn initialize(&mut self, files: &[(&str, &str)]) {
        let server = self;
        let password = server.folder.join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        give_to_postgres(&server.folder);
        let mut initdb = server.command("initdb");
        initdb.arg("-D").arg(server.data()).arg("--no-sync").arg(format!("--username={USER}"));
        initdb.args(["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]).arg("--pwfile").arg(password);
        let status = Process::spawn(&mut initdb, Signal::Kill).wait(SOON * 4);
        assert!(status.success(), "initdb: {status}\n{}", server.log());
        for (name, contents) in files {
            let file = server.data().join(name);
            std::fs::write(&file, contents).unwrap();
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        give_to_postgres(&server.folder);
        server.start_again();
    }

    /// Starts it again, on the same port and with the same data, and waits until it answers.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "PostgreSQL is running");
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        // Nothing has to survive a power cut; what is committed survives every shutdown, immediate ones too.
        let ours = [("fsync", "off"), ("full_page_writes", "off")].into_iter();
        let ours = ours.chain([("max_connections", "300"), ("listen_addresses", "127.0.0.1")]);
        let ours = ours.chain([("unix_socket_directories", ""), ("timezone", "UTC")]);
        let theirs = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in ours.chain(theirs) {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        // An immediate shutdown leaves no shared memory behind, as killing it would.
        self.process = Some(Process::spawn(&mut postgres, Signal::Quit));
        let url = self.url("postgres");
        eventually(SOON * 2, "PostgreSQL's answer", || {
            let status = self.process.as_mut().unwrap().status();
            assert!(status.is_none(), "PostgreSQL ended with {}:\n{}", status.unwrap(), self.log());
            rows(&url, "SELECT 1").map(drop).map_err(|error| error.to_string())
        });
    }

    /// Stops it: open transactions are rolled back, and connections closed (a *fast* shutdown).
    pub fn stop(&mut self) {
        self.end(Signal::Int);
    }

    /// Ends it at once, as a crash does; when started again it recovers (an *immediate* shutdown).
    pub fn stop_immediately(&mut self) {
        self.end(Signal::Quit);
    }

    /// Whether its disk is one that can be filled.
    pub fn is_on_small_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Fills the disk to the last byte.
    pub fn fill_disk(&self) {
        // PostgreSQL itself may take the last bytes first.
        self.on_disk(
            r#"for n in 1 2 3; do
                fallocate -l "$(df --output=avail -B1 . | tail -n 1)" "ballast$n" 2>/dev/null || true
            done"#,
        );
    }

    /// Frees it again, and starts the server where the full disk has ended it.
    pub fn free_disk(&mut self) {
        self.on_disk("rm -f ballast*");
        if self.process.as_mut().is_some_and(|process| process.status().is_some()) {
            self.process = None;
            self.start_again();
        }
        let url = self.url("postgres");
        eventually(SOON * 2, "PostgreSQL's answer", || {
            rows(&url, "SELECT 1").map(drop).map_err(|error| error.to_string())
        });
    }

    fn on_disk(&self, script: &str) {
        let holder = self.disk.as_ref().expect("the disk is none of its own").id().to_string();
        let script = &format!("cd {} && {script}", self.folder.join("disk").display());
        let mut shell = Command::new("nsenter");
        shell.args(["--mount", "--target", &holder, "sh", "-c", script]);
        assert!(shell.status().unwrap().success(), "{script}");
    }

    /// Runs one of PostgreSQL's programs to its end, and says whether it succeeded. What it prints is in
    /// [`PrivateServer::log`].
    pub fn run_program(&self, program: &str, arguments: &[&str], deadline: Duration) -> bool {
        Process::spawn(self.command(program).args(arguments), Signal::Kill).wait(deadline).success()
    }

    /// A path for a file that its programs may write.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The address: `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The process id of its first process, the parent of all others.
    pub fn process_id(&self) -> u32 {
        self.process.as_ref().expect("PostgreSQL is not running").id()
    }

    /// The URL of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://{USER}:{PASSWORD}@{}/{database}", self.address())
    }

    /// The text of the server's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn end(&mut self, signal: Signal) {
        let mut process = self.process.take().expect("PostgreSQL is not running");
        process.signal(signal);
        process.wait(SOON * 2);
    }

    fn data(&self) -> PathBuf {
        self.folder.join(if self.disk.is_some() { "disk/data" } else { "data" })
    }

    /// A program of PostgreSQL, run as user `postgres` if the tests run as root, as which it refuses to run.
    fn command(&self, program: &str) -> Command {
        let beside = self.programs.join(program);
        let program = if beside.is_file() {
            beside
        } else {
            find_program(program, elsewhere()).unwrap_or_else(|| panic!("{program} is not installed"))
        };
        let mut started = if is_root() {
            let mut as_other = match &self.disk {
                Some(holder) => {
                    let mut inside = command("nsenter");
                    inside.args(["--mount", "--target", &holder.id().to_string(), "setpriv"]);
                    inside
                }
                None => command("setpriv"),
            };
            as_other
                .args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--init-groups", "--"])
                .arg(program);
            as_other
        } else {
            command(program)
        };
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        started.current_dir(&self.folder).stdout(log.try_clone().unwrap()).stderr(log);
        started
    }
}

/// The folder of `initdb` and `postgres`. The newest version goes first.
fn find_programs() -> PathBuf {
    let found = find_program("initdb", elsewhere());
    found.expect("PostgreSQL's server is not installed: see `make setup`").parent().unwrap().into()
}

/// Debian's folders outside `PATH`, the newest version first.
fn elsewhere() -> impl Iterator<Item = PathBuf> {
    let mut elsewhere: Vec<(u32, PathBuf)> = Vec::new();
    for version in std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let number = version.file_name().to_string_lossy().parse().unwrap_or(0);
        elsewhere.push((number, version.path().join("bin")));
    }
    elsewhere.sort();
    elsewhere.into_iter().rev().map(|(_, folder)| folder)
}

pub(super) fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}

pub(super) fn give_to_postgres(folder: &Path) {
    if is_root() {
        assert!(Command::new("chown").args(["-R", USER]).arg(folder).status().unwrap().success());
    }
}

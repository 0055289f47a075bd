//! PgBouncer, the connection pooler, between the daemon and PostgreSQL.

use std::path::PathBuf;

use super::postgres::{Database, PASSWORD, USER, give_to_postgres, is_root};
use super::processes::{Process, Signal, command, find_program, folder, free_port};
use super::wait::{SOON, eventually};

/// A pooler that a test may stop and start in another mode.
pub struct PgBouncer {
    program: PathBuf,
    folder: PathBuf,
    server: String,
    user: (String, String),
    /// `default_pool_size`: server connections for each database and user.
    pool_size: u32,
    port: u16,
    process: Option<Process>,
}

impl PgBouncer {
    /// Starts a pooler in this `pool_mode` before the server of a database. The error says why there is none.
    pub fn start(database: &Database, mode: &str) -> Result<PgBouncer, String> {
        PgBouncer::start_for(database, mode, USER, PASSWORD)
    }

    /// As [`PgBouncer::start`], with this many server connections.
    pub fn start_of_size(database: &Database, mode: &str, pool_size: u32) -> Result<PgBouncer, String> {
        let mut pooler = PgBouncer::start(database, mode)?;
        pooler.pool_size = pool_size;
        pooler.start_again(mode);
        Ok(pooler)
    }

    /// Starts a pooler for another role than the superuser, with its password.
    pub fn start_for(
        database: &Database,
        mode: &str,
        user: &str,
        password: &str,
    ) -> Result<PgBouncer, String> {
        let elsewhere = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
        let program = find_program("pgbouncer", elsewhere).ok_or("pgbouncer is not installed")?;
        let server = server_of(database);
        let user = (user.to_owned(), password.to_owned());
        let mut pooler = PgBouncer {
            program,
            folder: folder("pgbouncer"),
            server,
            user,
            pool_size: 20,
            port: free_port(),
            process: None,
        };
        pooler.start_again(mode);
        Ok(pooler)
    }

    /// Starts it in this mode, on the same port, and waits until it listens.
    pub fn start_again(&mut self, mode: &str) {
        self.stop();
        let (host, port) = self.server.split_once(':').unwrap();
        let ini = format!(
            "[databases]\n* = host={host} port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = users\npool_mode = {mode}\ndefault_pool_size = {}\n\
             max_client_conn = 300\n",
            self.port, self.pool_size
        );
        std::fs::write(self.folder.join("pgbouncer.ini"), ini).unwrap();
        std::fs::write(self.folder.join("users"), format!("\"{}\" \"{}\"\n", self.user.0, self.user.1))
            .unwrap();
        give_to_postgres(&self.folder);
        let mut pooler = if is_root() {
            // it refuses to run as root
            let mut pooler = command("setpriv");
            pooler.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--init-groups", "--"]);
            pooler.arg(&self.program);
            pooler
        } else {
            command(&self.program)
        };
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        pooler.arg("pgbouncer.ini").current_dir(&self.folder);
        pooler.stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(Process::spawn(&mut pooler, Signal::Kill));
        let address = format!("127.0.0.1:{}", self.port);
        eventually(SOON, "PgBouncer's port", || std::net::TcpStream::connect(&address).map(drop));
    }

    /// Starts it again in front of the server that has this database now.
    pub fn repoint(&mut self, database: &Database, mode: &str) {
        self.server = server_of(database);
        self.start_again(mode);
    }

    /// Stops it; its connections are closed.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// The URL of the database of this name through the pooler.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgresql://{}@127.0.0.1:{}/{database}", self.user.0, self.port)
    }

    /// The URL of a database through the pooler.
    pub fn url(&self, database: &Database) -> String {
        self.url_of(database.name())
    }
}

/// The address of a database's server: `host:port`.
fn server_of(database: &Database) -> String {
    let (_, server) = database.url().split_once('@').unwrap();
    server.split_once('/').unwrap().0.to_owned()
}

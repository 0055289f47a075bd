//! Child processes and folders that go away with the test process, however that ends.
//!
//! Values in a `static` are never dropped, and a killed process drops nothing. So a *janitor* runs beside the tests: a
//! shell in a process group of its own, which waits for the end of a pipe that only the test process holds open. Then it
//! ends the remaining children and removes the test process's folder, whether the tests end by Ctrl-C, `kill -9` or a
//! return from `main`.

use std::ffi::OsStr;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::wait::{SOON, eventually};

/// `$1` is the test process's folder. In `$1/processes` there is a file for each child: its name is the process id,
/// and it holds the signal that ends it.
const JANITOR: &str = r#"
cat >/dev/null # until the test process is gone
cd "$1/processes" || exit
each() { for pid in *; do [ -e "$pid" ] && "$1"; done; }
end() { kill -s "$(cat "$pid")" "$pid"; }
look() { if kill -s 0 "$pid"; then some=yes; else rm "$pid"; fi; }
force() { kill -s KILL "$pid"; }
each end
for _ in 1 2 3 4 5 6 7 8 9 10; do
    some=
    each look
    [ "$some" ] || break
    sleep 0.3
done
each force
cd / && rm -rf -- "$1"
"#;

struct Janitor {
    folder: PathBuf,
    /// Holds the pipe that the system closes when this process ends; the shell waits for that.
    _shell: Child,
}

fn janitor() -> &'static Janitor {
    static JANITOR_OF_THIS_PROCESS: OnceLock<Janitor> = OnceLock::new();
    JANITOR_OF_THIS_PROCESS.get_or_init(|| {
        let folder = tempfile::Builder::new().prefix("voiceclone-events-tests-").tempdir().unwrap().keep();
        // PostgreSQL, started as another user where the tests run as root, must get through to its own folder.
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o711)).unwrap();
        std::fs::create_dir(folder.join("processes")).unwrap();
        let shell = Command::new("/bin/sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Janitor { folder, _shell: shell }
    })
}

/// A new, empty folder, which is removed at the end of the test process.
pub fn folder(name: &str) -> PathBuf {
    let folder = janitor().folder.join(super::unique(name));
    std::fs::create_dir(&folder).unwrap();
    folder
}

/// A TCP port on 127.0.0.1 on which nothing listens, and which is not given out twice. It lies below those that the
/// system gives to outgoing connections, so that a server stopped and started again finds it free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    const FIRST: u64 = 15_000;
    const COUNT: u64 = 17_000;
    loop {
        let port =
            FIRST + (u64::from(std::process::id()) * 127 + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The program of this name on `PATH`, or the first one in `elsewhere`.
pub fn find_program(name: &str, elsewhere: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(elsewhere).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A signal for a child process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Signal {
    /// Asks it to end in good order.
    Term,
    /// As Ctrl-C does; a *fast* shutdown of PostgreSQL.
    Int,
    /// An *immediate* shutdown of PostgreSQL.
    Quit,
    /// Ends it at once.
    Kill,
    /// Halts it, as a machine does that swaps or is suspended.
    Stop,
    /// Lets it go on.
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Term => "TERM",
            Signal::Int => "INT",
            Signal::Quit => "QUIT",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Cont => "CONT",
        }
    }
}

/// The beginning of a command to be given to [`Process::spawn`]: add arguments, variables and outputs to it.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    // The program starts only once the janitor knows of it: there is no moment in which it could be forgotten.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", r#"read -r _ && exec "$@""#, "sh"]).arg(program);
    command.process_group(0).stdin(Stdio::piped());
    command
}

/// A child process that ends with this value, or with the test process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// The file of the process in the janitor's folder.
    known_as: PathBuf,
    last: Signal,
}

impl Process {
    /// Starts a command made by [`command`]. `last` is the signal that surely ends it without leaving anything behind.
    pub fn spawn(command: &mut Command, last: Signal) -> Process {
        let folder = janitor().folder.join("processes");
        let mut child = command.spawn().unwrap();
        let known_as = folder.join(child.id().to_string());
        std::fs::write(&known_as, last.name()).unwrap();
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        Process { child, known_as, last }
    }

    /// The child itself, for taking its inputs and outputs.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. One that has ended already is left alone.
    pub fn signal(&mut self, signal: Signal) {
        if self.status().is_none() {
            let kill = format!("kill -s {} {}", signal.name(), self.id());
            assert!(Command::new("/bin/sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
        }
    }

    /// The exit status, if the process has ended.
    pub fn status(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().unwrap();
        if status.is_some() {
            let _ = std::fs::remove_file(&self.known_as);
        }
        status
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of process {}", self.id());
        eventually(deadline, &what, || self.status().ok_or("still running"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(self.last);
        self.signal(Signal::Cont); // one that was halted takes no other signal than KILL
        let start = Instant::now();
        while self.status().is_none() {
            if start.elapsed() > SOON {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

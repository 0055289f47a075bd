//! The compiled program as a child process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::processes::{Process, Signal, command, free_port};
use super::wait::eventually;

const PROGRAM: &str = env!("CARGO_BIN_EXE_voiceclone-events");

/// The program under test, running. It ends with this value, or with the test process; where the test has failed, the
/// end of its output is shown.
pub struct Daemon {
    process: Process,
    address: String,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Daemon {
    /// Starts `run` with these variables, and `HTTP_ADDR` at a free port. Nothing of the environment of the tests
    /// reaches it.
    pub fn run(variables: &[(&str, &str)]) -> Daemon {
        Self::start(&["run"], variables)
    }

    /// Starts any command that runs until a signal, in the same way.
    pub fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Daemon {
        Self::start_with_log(arguments, variables, None)
    }

    /// As [`Daemon::start`]; the output goes to a file, too, line by line.
    pub fn start_with_log(arguments: &[&str], variables: &[(&str, &str)], log: Option<&Path>) -> Daemon {
        Self::start_program(PROGRAM, arguments, variables, log)
    }

    /// As [`Daemon::start`], with another build of the program, such as an older version.
    pub fn start_program(
        program: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
        log: Option<&Path>,
    ) -> Daemon {
        let address = match variables.iter().find(|(name, _)| *name == "HTTP_ADDR") {
            Some((_, address)) => (*address).into(),
            None => format!("127.0.0.1:{}", free_port()),
        };
        let mut program = command(program);
        program.args(arguments).env_clear().env("HTTP_ADDR", &address).envs(variables.iter().copied());
        let mut process = Process::spawn(program.stdout(Stdio::piped()).stderr(Stdio::piped()), Signal::Kill);
        drop(process.child().stdin.take());
        let lines = Arc::default();
        let readers = vec![
            collect(process.child().stdout.take().unwrap(), Arc::clone(&lines), log),
            collect(process.child().stderr.take().unwrap(), Arc::clone(&lines), log),
        ];
        Daemon { process, address, lines, readers }
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Panics
    /// Once `deadline` has passed, and at once when the program has ended.
    pub fn wait_ready(&mut self, deadline: Duration) {
        eventually(deadline, "the daemon to be ready", || {
            let ended = self.process.status();
            assert!(ended.is_none(), "the daemon ended with {}", ended.unwrap());
            match self.try_http_get("/readyz") {
                Ok((200, _)) => Ok(()),
                other => Err(other),
            }
        });
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for the end and returns the exit status; after a signal, 128 plus its number, as in a shell. All output is
    /// in [`Daemon::logs`] then.
    ///
    /// # Panics
    /// Once `deadline` has passed.
    pub fn wait_exit(&mut self, deadline: Duration) -> i32 {
        let status = self.process.wait(deadline);
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        code(status)
    }

    /// Whether the process is running.
    pub fn is_running(&mut self) -> bool {
        self.process.status().is_none()
    }

    /// The process id; also of its process group.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The peak of resident memory up to now, in MiB.
    pub fn peak_memory(&self) -> u64 {
        self.status_mib("VmHWM:")
    }

    /// The resident memory, in MiB.
    pub fn memory(&self) -> u64 {
        self.status_mib("VmRSS:")
    }

    fn status_mib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process_id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// The lines printed up to now, to standard output and standard error.
    pub fn logs(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The address of its HTTP server: `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The status and the body of the answer to a GET.
    ///
    /// # Panics
    /// Where there is no answer.
    pub fn http_get(&self, path: &str) -> (u16, String) {
        self.try_http_get(path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// The headers of the answer to a GET.
    ///
    /// # Panics
    /// Where there is no answer.
    pub fn http_headers(&self, path: &str) -> BTreeMap<String, String> {
        let answer = self.ask(path).unwrap_or_else(|error| panic!("GET {path}: {error}"));
        let header = |(name, value): (&ureq::http::HeaderName, &ureq::http::HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        answer.headers().iter().map(header).collect()
    }

    /// As [`Daemon::http_get`]; no answer is an error.
    pub fn try_http_get(&self, path: &str) -> Result<(u16, String), String> {
        let mut answer = self.ask(path)?;
        let body = answer.body_mut().read_to_string().map_err(|error| error.to_string())?;
        Ok((answer.status().as_u16(), body))
    }

    fn ask(&self, path: &str) -> Result<ureq::http::Response<ureq::Body>, String> {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let agent = config.timeout_global(Some(Duration::from_secs(10))).build().new_agent();
        let answer = agent.get(format!("http://{}{path}", self.address)).call();
        answer.map_err(|error| error.to_string())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.logs();
            eprintln!("the last of {} lines that the daemon printed:", lines.len());
            lines.iter().rev().take(100).rev().for_each(|line| eprintln!("| {line}"));
        }
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit status.
    pub code: i32,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

/// Runs a command to its end, with these variables as its whole environment and with empty standard input.
///
/// # Panics
/// Where it takes longer than `deadline`.
pub fn run_command(arguments: &[&str], variables: &[(&str, &str)], deadline: Duration) -> Finished {
    run_command_with_input(arguments, variables, b"", deadline)
}

/// As [`run_command`], with `input` on standard input.
///
/// # Panics
/// As [`run_command`] does.
pub fn run_command_with_input(
    arguments: &[&str],
    variables: &[(&str, &str)],
    input: &[u8],
    deadline: Duration,
) -> Finished {
    let mut program = command(PROGRAM);
    program.args(arguments).env_clear().envs(variables.iter().copied());
    let mut process = Process::spawn(program.stdout(Stdio::piped()).stderr(Stdio::piped()), Signal::Kill);
    let (stdout, stderr) = (process.child().stdout.take().unwrap(), process.child().stderr.take().unwrap());
    let (stdout, stderr) = (std::thread::spawn(|| read_all(stdout)), std::thread::spawn(|| read_all(stderr)));
    let (mut stdin, input) = (process.child().stdin.take().unwrap(), input.to_vec());
    std::thread::spawn(move || drop(stdin.write_all(&input))); // the command may end before it has read all
    let what = format!("the end of `{}`", arguments.join(" "));
    let status = eventually(deadline, &what, || process.status().ok_or("still running"));
    Finished { code: code(status), stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn collect(
    from: impl Read + Send + 'static,
    lines: Arc<Mutex<Vec<String>>>,
    log: Option<&Path>,
) -> JoinHandle<()> {
    let mut log = log.map(|log| File::options().create(true).append(true).open(log).unwrap());
    std::thread::spawn(move || {
        for mut line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            if let Some(log) = &mut log {
                line.push(b'\n');
                log.write_all(&line).unwrap();
                line.pop();
            }
            lines.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
        }
    })
}

fn read_all(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

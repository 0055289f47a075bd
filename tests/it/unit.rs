//! The systemd unit, started by a real systemd in a container of its own (`tests/deploy/boot.sh`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::daemon::run_command;
use crate::support::left_out::{or_left_out, real_kafka};
use crate::support::processes::{Process, Signal, command, find_program, folder, free_port};
use crate::support::scene::Scene;
use crate::support::wait::{SOON, eventually, eventually_eq};

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Whether such a container can be made here; the error says why not.
fn can_boot() -> Result<(), String> {
    let done = Command::new("id").arg("-u").output().unwrap();
    if done.stdout != b"0\n" {
        return Err("only root can boot systemd in a container".to_owned());
    }
    for program in ["unshare", "nsenter", "pivot_root"] {
        find_program(program, ["/usr/sbin".into(), "/sbin".into()])
            .ok_or_else(|| format!("{program} is not installed"))?;
    }
    if !Path::new("/lib/systemd/systemd").exists() {
        return Err("systemd is not installed".to_owned());
    }
    let tried = Command::new("unshare").args(["--mount", "--pid", "--cgroup", "--fork", "true"]).output();
    match tried {
        Ok(tried) if tried.status.success() => {}
        tried => return Err(format!("namespaces cannot be made here: {tried:?}")),
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    if !mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2")) {
        return Err("there is no cgroup2".to_owned());
    }
    let systems = std::fs::read_to_string("/proc/filesystems").unwrap();
    if systems.contains("overlay") { Ok(()) } else { Err("the kernel has no overlay".to_owned()) }
}

/// A machine that systemd has booted, with the unit.
struct Machine {
    /// The process id of its systemd.
    systemd: String,
    _process: Process,
}

impl Machine {
    /// Boots with the compiled program, the unit, and these settings.
    fn boot(settings: &str) -> Machine {
        let folder = folder("machine");
        let put = |path: &str, mode: u32, write: &dyn Fn(&PathBuf)| {
            let path = folder.join("files").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            write(&path);
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        let copy = |from: String| {
            move |to: &PathBuf| {
                std::fs::copy(&from, to).unwrap();
            }
        };
        put("usr/bin/voiceclone-events", 0o755, &copy(env!("CARGO_BIN_EXE_voiceclone-events").to_owned()));
        let unit = format!("{ROOT}/deploy/systemd/voiceclone-events.service");
        put("etc/systemd/system/voiceclone-events.service", 0o644, &copy(unit));
        put("etc/voiceclone-events/environment", 0o600, &|path| std::fs::write(path, settings).unwrap());
        let mut boot = command(format!("{ROOT}/tests/deploy/boot.sh"));
        let mut process = Process::spawn(boot.arg(&folder), Signal::Term);
        let systemd = eventually(SOON, "systemd to be started", || {
            assert!(process.status().is_none(), "boot.sh has ended");
            std::fs::read_to_string(folder.join("pid")).map(|pid| pid.trim().to_owned())
        });
        Machine { systemd, _process: process }
    }

    /// Runs a program on the machine, and returns what it prints.
    fn run(&self, command: &[&str]) -> String {
        let mut run = Command::new("nsenter");
        run.args(["--target", &self.systemd, "--mount", "--pid", "--uts", "--ipc", "--cgroup"]);
        let done = run.args(command).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        [text(&done.stdout), text(&done.stderr)].join("\n").trim().to_owned()
    }

    /// A property of the unit.
    fn property(&self, name: &str) -> String {
        self.run(&["systemctl", "show", "--value", "--property", name, "voiceclone-events"])
    }

    fn wait_for(&self, name: &str, value: &str) {
        eventually(MINUTES, &format!("{name}={value}"), || {
            std::thread::sleep(Duration::from_millis(200));
            let seen = self.property(name);
            if seen == value { Ok(()) } else { Err((seen, self.property("StatusText"), self.journal())) }
        });
    }

    /// What the daemon printed last.
    fn journal(&self) -> String {
        self.run(&["journalctl", "--unit", "voiceclone-events", "--lines", "5", "--output", "cat"])
    }
}

fn status_of(port: u16) -> Result<(), String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| error.to_string())?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
}

fn wait_until_ready(machine: &Machine, port: u16) {
    eventually(MINUTES, "the daemon to be ready", || {
        std::thread::sleep(Duration::from_millis(200));
        status_of(port).map_err(|error| (error, machine.property("ActiveState"), machine.journal()))
    });
}

#[test]
fn systemd_runs_the_unit_without_rights_restarts_it_after_a_crash_and_not_after_a_wrong_setting() {
    or_left_out!(can_boot());
    let scene = Scene::new(real_kafka!(), 1);
    let migrated = run_command(&["migrate", "up"], &scene.variables(&[]), MINUTES);
    assert_eq!(migrated.code, 0, "{migrated:?}");
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let variables = scene.variables(&[("HTTP_ADDR", &address), ("LOG_FORMAT", "json")]);
    let settings: String = variables.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();

    let machine = Machine::boot(&settings);
    wait_until_ready(&machine, port);
    assert_eq!(machine.property("ActiveState"), "active");
    let process = machine.property("MainPID");
    let status = machine.run(&["cat", &format!("/proc/{process}/status")]);
    let line = |name: &str| -> Vec<String> {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect()
    };
    assert!(
        line("Uid:").iter().all(|id| id.parse::<u32>().unwrap() >= 61_184),
        "not a user of its own: {status}"
    );
    assert_eq!(
        (line("CapEff:"), line("NoNewPrivs:"), line("Seccomp:")),
        (vec!["0".repeat(16)], vec!["1".to_owned()], vec!["2".to_owned()])
    );
    let call =
        |id: &str| scene.publish("call.lifecycle", &format!(r#"{{"call_id":"{id}","status":"initiated"}}"#));
    call("first");
    scene.wait_until_consumed(MINUTES);

    machine.run(&["systemctl", "kill", "--signal", "KILL", "voiceclone-events"]);
    machine.wait_for("NRestarts", "1");
    wait_until_ready(&machine, port);
    assert_ne!(machine.property("MainPID"), process);
    call("second");
    scene.wait_until_consumed(MINUTES);

    machine.run(&["systemctl", "stop", "voiceclone-events"]);
    machine.wait_for("ActiveState", "inactive");
    assert_eq!(
        (machine.property("Result"), machine.property("ExecMainStatus")),
        ("success".into(), "0".into())
    );
    eventually_eq(SOON, "the members of the group", 0, || scene.kafka.group_members(&scene.group));

    machine.run(&["sh", "-c", "echo KAFKA_ACKS=1 >>/etc/voiceclone-events/environment"]);
    machine.run(&["systemctl", "start", "voiceclone-events"]);
    machine.wait_for("ActiveState", "failed");
    assert_eq!((machine.property("ExecMainStatus"), machine.property("NRestarts")), ("2".into(), "0".into()));
}

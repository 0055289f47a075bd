//! The producers of `docs/producers.md`, in Python and TypeScript: their events become rows, and events that a schema
//! refuses are not sent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::Command;

use voiceclone_events::json_schemas::SCHEMAS;

use crate::support::daemon::run_command;
use crate::support::left_out::{or_left_out, real_kafka};
use crate::support::scene::Scene;
use crate::support::wait::SOON;
use crate::support::{processes, tools, unique};

const PRODUCERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/producers");

/// A folder with the schemas as `schema` prints them.
fn schemas() -> PathBuf {
    let folder = processes::folder("schemas");
    for (topic, _) in SCHEMAS {
        let printed = run_command(&["schema", topic], &[], SOON);
        assert_eq!(printed.code, 0, "{printed:?}");
        std::fs::write(folder.join(format!("{topic}.schema.json")), printed.stdout).unwrap();
    }
    folder
}

fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The program's `produce.py` or compiled `produce.js` sends its four events, and the daemon uses all of them.
fn its_events_become_rows(scene: &Scene, program: &mut Command) {
    let environment = [
        ("KAFKA_BOOTSTRAP_SERVERS", scene.servers.as_str()),
        ("TOPIC_PREFIX", scene.prefix.as_str()),
        ("SCHEMAS", schemas().to_str().unwrap()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (good, said) = run(program.envs(environment));
    assert!(good && said.contains("4 events sent"), "{said}");
    let types: Vec<Option<String>> =
        scene.log().iter().map(|record| record.header("content-type").map(str::to_owned)).collect();
    assert_eq!(types.len(), 4);
    assert!(types.iter().all(Option::is_some), "{types:?}");
    let _daemon = scene.daemon(&[]);
    scene.assert_as_the_model_says(SOON * 4);
    let rows = scene.database.value(
        "SELECT concat_ws(' ', (SELECT count(*) FROM call_log), (SELECT count(*) FROM clone_ready_events),
                               (SELECT count(*) FROM clone_transfer_events), (SELECT reuse_count FROM voice_clone_cache),
                               (SELECT count(*) FROM ingest.dead_letters))",
    );
    assert_eq!(rows, "2 1 1 1 0", "calls, clones, transfers, uses of the voice, dead letters");
}

#[test]
fn the_producer_in_python_sends_bare_events_and_cloud_events_that_become_rows() {
    let python = or_left_out!(tools::python("confluent_kafka"));
    let scene = Scene::new(real_kafka!(), 1);
    its_events_become_rows(&scene, Command::new(python).arg("-B").arg(format!("{PRODUCERS}/produce.py")));
}

#[test]
fn the_producer_in_typescript_sends_bare_events_and_cloud_events_that_become_rows() {
    let program = or_left_out!(compiled());
    let scene = Scene::new(real_kafka!(), 1);
    its_events_become_rows(&scene, Command::new("node").arg(program.path().join("produce.js")));
}

/// The program in TypeScript, compiled in a folder from which Node.js finds the packages.
fn compiled() -> Result<tempfile::TempDir, String> {
    let modules = tools::node("kafkajs")?;
    let folder = tempfile::Builder::new().prefix(&unique("producer")).tempdir_in(tools::folder()).unwrap();
    for file in ["produce.ts", "tsconfig.json"] {
        std::fs::copy(Path::new(PRODUCERS).join(file), folder.path().join(file)).unwrap();
    }
    let (good, said) =
        run(Command::new(modules.join(".bin/tsc")).args(["--project", "tsconfig.json"]).current_dir(&folder));
    assert!(good, "{said}");
    Ok(folder)
}

#[test]
fn the_producer_in_python_refuses_what_the_schema_refuses_and_quotes_no_value() {
    let python = or_left_out!(tools::python("confluent_kafka"));
    let code = "import sys, produce, pathlib\n\
                events = produce.Events('127.0.0.1:1', pathlib.Path(sys.argv[1]))\n\
                for event in [{'call_id': 'c', 'status': 'done-by-Jane'}, {'status': 'failed'}]:\n\
                \x20   try: events.send('call.lifecycle', event)\n\
                \x20   except produce.Refused as refused: print(refused)";
    let (good, said) =
        run(Command::new(python).args(["-B", "-c", code]).arg(schemas()).env("PYTHONPATH", PRODUCERS));
    refuses(good, &said);
}

#[test]
fn the_producer_in_typescript_refuses_what_the_schema_refuses_and_quotes_no_value() {
    let program = or_left_out!(compiled());
    let code = "const { Events, Refused } = require('./produce.js');\n\
                const events = new Events('127.0.0.1:1', process.argv[1]);\n\
                (async () => { for (const event of [{ call_id: 'c', status: 'done-by-Jane' }, { status: 'failed' }])\n\
                await events.send('call.lifecycle', event).catch((error) => {\n\
                if (error instanceof Refused) console.log(error.message); }); })();";
    let (good, said) = run(Command::new("node").args(["-e", code]).arg(schemas()).current_dir(&program));
    refuses(good, &said);
}

fn refuses(good: bool, said: &str) {
    let refused: Vec<&str> = said.lines().filter(|line| line.starts_with("call.lifecycle: ")).collect();
    assert!(good && refused.len() == 2, "{said}");
    assert_eq!(refused[0], "call.lifecycle: status: enum");
    assert!(refused[1].contains("call_id") && !said.contains("Jane"), "{said}");
}

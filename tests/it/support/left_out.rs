//! Tests that cannot run on this machine. libtest knows no test that finds out only while it runs that it cannot,
//! and would count it as passed; so each says so on stderr and in a file, which `make test` shows at the end.

use std::io::Write;
use std::path::PathBuf;

/// Where the tests that were left out are listed, one to a line with the reason. It is appended to; `make test`
/// empties it before a run.
pub fn list() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_TARGET_TMPDIR"), "/left-out.txt"))
}

/// Notes that a test is left out, and why.
pub fn note(test: &str, why: &str) {
    let line = format!("left out: {test}: {why}\n");
    // The process's own stderr: libtest swallows what a passing test prints.
    let _ = std::io::stderr().write_all(line.as_bytes());
    std::fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // One write of a short line to a file opened for appending is never mixed with another's.
    let file = std::fs::OpenOptions::new().create(true).append(true).open(list());
    file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
}

/// The name of a test, from the type name of a function inside it: `it::module::name::here` or, in an async test,
/// `it::module::name::{{closure}}::here`.
pub fn test_name<T>(here: T) -> String {
    let path = std::any::type_name_of_val(&here);
    let parts: Vec<&str> = path.split("::").filter(|part| *part != "{{closure}}").collect();
    parts[1..parts.len() - 1].join("::")
}

/// The shared Kafka broker; or the test ends here, left out, where there is none.
/// `let kafka = real_kafka!();`
macro_rules! real_kafka {
    () => {
        $crate::support::left_out::or_left_out!($crate::support::kafka::shared())
    };
}

/// A Kafka broker of the test's own, which it may stop and kill; or the test ends here, left out.
/// `let broker = private_kafka!();`, or with settings of the broker `private_kafka!(("log.retention.ms", "1000"))`.
macro_rules! private_kafka {
    ($($setting:expr),*) => {
        $crate::support::left_out::or_left_out!($crate::support::kafka::PrivateKafka::start(&[$($setting),*]))
    };
}

/// The value of an `Ok`; at an `Err` the test ends here, left out for the reason in it.
macro_rules! or_left_out {
    ($available:expr) => {
        match $available {
            Ok(available) => available,
            Err(why) => {
                fn here() {}
                $crate::support::left_out::note(
                    &$crate::support::left_out::test_name(here),
                    &why.to_string(),
                );
                return;
            }
        }
    };
}

pub(crate) use {or_left_out, private_kafka, real_kafka};

//! `check`: tries everything that `run` depends on, and changes nothing.

mod broker;
mod certificates;
pub(in crate::commands) mod database;
mod report;
mod topics;

use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use tokio::net::TcpListener;

use self::report::CheckReport;
use crate::config::{SettingError, Settings};
use crate::{kafka, store};

/// Maximum time for a step.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Remedies for a certificate that expires soon.
const RENEW_DATABASE: &str =
    "renew it: the server's and then reload PostgreSQL, this client's in the file of sslcert";
const RENEW_KAFKA: &str =
    "renew it: a broker's, or this client's (KAFKA_SSL_CERTIFICATE_LOCATION) and then restart `run`";

/// The verdict: would `run` work?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckVerdict {
    /// `run` would work; exit status 0.
    Works,
    /// `run` would not work; exit status 1.
    Fails,
    /// A setting is wrong; exit status 2.
    WrongSetting,
}

/// Prints the effective settings, and the state and remedy of each thing that the daemon needs. Changes nothing. `wrong`
/// lists the wrong settings; `settings` has their defaults instead.
pub async fn run(
    settings: &Settings,
    wrong: &[SettingError],
    warnings: &[String],
    json: bool,
) -> anyhow::Result<CheckVerdict> {
    let mut report = CheckReport::default();
    for SettingError { name, problem, remedy } in wrong {
        report.wrong(name, problem, remedy);
    }
    for warning in warnings {
        let (name, what) = warning.split_once(' ').unwrap_or((warning, ""));
        report.warning(name, what, "rename it, or unset it");
    }
    let is_wrong = |name: &str| wrong.iter().any(|error| error.name.starts_with(name));
    if !is_wrong("HTTP_ADDR") {
        http(settings, &mut report).await;
    }
    if is_wrong("DATABASE_URL") {
        report.untried("database", "as DATABASE_URL is wrong");
    } else {
        database::check(settings, &mut report).await;
        let url = settings.database_url.clone();
        let seen = tokio::task::spawn_blocking(move || store::connect::certificates(&url)).await?;
        certificates::check(seen, RENEW_DATABASE, &mut report);
    }
    if is_wrong("KAFKA_") {
        report.untried("brokers", "as a KAFKA_* setting is wrong");
    } else {
        broker::check(settings, &mut report).await?;
        let ours = settings.clone();
        let seen = tokio::task::spawn_blocking(move || kafka::certificate::certificates(&ours)).await?;
        certificates::check(seen, RENEW_KAFKA, &mut report);
    }
    report.print(settings, json)?;
    Ok(match (wrong.is_empty(), report.is_good()) {
        (false, _) => CheckVerdict::WrongSetting,
        (true, false) => CheckVerdict::Fails,
        (true, true) => CheckVerdict::Works,
    })
}

async fn http(settings: &Settings, report: &mut CheckReport) {
    let what = "HTTP_ADDR";
    let Some(address) = settings.http_addr else {
        report.ok(what, "turned off");
        return;
    };
    match TcpListener::bind(address).await {
        Ok(_) => report.ok(what, format!("{address} is free")),
        // most likely the daemon itself is running
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            report.ok(what, format!("{address} is taken, by a running daemon or by another program"));
        }
        Err(error) => report.wrong(
            what,
            format!("nothing can listen on {address}: {error}"),
            "set HTTP_ADDR to an address of this machine and a free port, or to nothing",
        ),
    }
}

/// Returns the result of a step, or an error where it fails or takes too long.
async fn timely<T, E: std::fmt::Display>(work: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(STEP_TIMEOUT, work).await {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("no answer within {} s", STEP_TIMEOUT.as_secs())),
    }
}

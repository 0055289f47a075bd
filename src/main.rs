//! Parse, dispatch, exit status: 0 done, 1 failed, 2 wrong usage or a wrong setting.

use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use voiceclone_events::cli::{self, Cli, Command, DeadLetters};
use voiceclone_events::commands::{check, dead_letters, demo, migrate, publish, replay, simulate};
use voiceclone_events::config::{Need, SettingError, Settings, environment};
use voiceclone_events::{daemon, kafka, logging, memory};

/// Why the program ends with an error.
enum Failure {
    /// Exit status 2.
    Setting(SettingError),
    /// Exit status 1.
    Failed(anyhow::Error),
    /// Exit status 1; everything was said.
    Said,
}

impl From<SettingError> for Failure {
    fn from(error: SettingError) -> Failure {
        Failure::Setting(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Failed(error)
    }
}

fn main() -> ExitCode {
    memory::return_large_blocks();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    let daemon = matches!(cli.command, Command::Run { .. });
    let say = |error: &str| if daemon { tracing::error!("{error}") } else { eprintln!("{error}") };
    let logging = logging::init(cli.settings.log_format.as_deref(), cli.settings.rust_log.as_deref(), daemon);
    if let Err(error) = logging {
        eprintln!("{error}");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("the runtime cannot be started: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(dispatch(&cli));
    runtime.shutdown_timeout(Duration::from_millis(200));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Setting(error)) => {
            say(&error.to_string());
            ExitCode::from(2)
        }
        Err(Failure::Failed(error)) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
        Err(Failure::Said) => ExitCode::FAILURE,
    }
}

async fn dispatch(cli: &Cli) -> Result<(), Failure> {
    let cancel = cancel_at_signals()?;
    let settings = |database: bool, broker: bool| -> Result<Settings, Failure> {
        let settings = Settings::from(&cli.settings, environment(), Need { database, broker })?;
        kafka::check_properties(&settings)?;
        Ok(settings)
    };
    match &cli.command {
        Command::Run { migrate } => Ok(daemon::run(&settings(true, true)?, *migrate, cancel).await?),
        Command::Migrate(what) => Ok(migrate::run(&settings(true, false)?, what, cli.json).await?),
        Command::Check => good(check::run(&settings(true, true)?, cli.json).await?),
        Command::Replay { topic, partition, from, to, dry_run } => {
            let options = replay::Options {
                topic: topic.clone(),
                partition: *partition,
                from: from.clone(),
                to: to.clone(),
                dry_run: *dry_run,
            };
            let outcome = replay::run(&settings(true, true)?, options, cli.json, cancel).await?;
            good(outcome == replay::Outcome::Done)
        }
        Command::DeadLetters(DeadLetters::Accept { topic, partition }) => {
            Ok(dead_letters::accept(&settings(true, false)?, *topic, *partition, cli.json).await?)
        }
        Command::Publish { topic, file } => {
            good(publish::run(&settings(false, true)?, topic, file.as_deref(), cli.json).await?)
        }
        Command::Simulate { calls, rate, seed, disorder } => {
            let settings = settings(false, true)?;
            Ok(simulate::run(&settings, *calls, *rate, *seed, *disorder, cli.json).await?)
        }
        Command::Demo { calls, seed, keep, disorder } => {
            let options = demo::Options { calls: *calls, seed: *seed, keep: *keep, disorder: *disorder };
            Ok(demo::run(&settings(false, false)?, options, cancel).await?)
        }
    }
}

fn good(good: bool) -> Result<(), Failure> {
    if good { Ok(()) } else { Err(Failure::Said) }
}

/// SIGTERM and SIGINT ask for an orderly end.
fn cancel_at_signals() -> Result<CancellationToken, Failure> {
    use anyhow::Context;
    use tokio::signal::unix::{SignalKind, signal};
    let cancel = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
    let asked = cancel.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        asked.cancel();
    });
    Ok(cancel)
}

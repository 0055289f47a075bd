//! Parses the command line, dispatches, and sets the exit status: 0 done, 1 failed, 2 wrong usage or a wrong setting.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use voiceclone_events::cli::{self, Cli, Command, CommandLine, DeadLetters, FailOn, Usage};
use voiceclone_events::commands::{
    check, dead_letters, demo, manual, migrate, pause, publish, replay, report, schema, simulate, skip,
    status, tap, where_is,
};
use voiceclone_events::config::{Need, SettingError, SettingErrors, Settings, environment, misspelt};
use voiceclone_events::output::{not_written, say};
use voiceclone_events::record::TopicPartition;
use voiceclone_events::status::problems::Severity;
use voiceclone_events::store::connect;
use voiceclone_events::{daemon, database_url, kafka, logging, memory, traces};

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

/// The failure of a command.
enum Failure {
    /// The error is to be reported.
    Failed(anyhow::Error),
    /// The error was reported already. Holds the exit status.
    Reported(u8),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Failed(error.into())
    }
}

fn main() -> ExitCode {
    memory::return_large_blocks();
    let cli = match cli::parse() {
        Ok(CommandLine::Command(cli)) => cli,
        Ok(CommandLine::Text(text)) => {
            return match text.print().and_then(|()| std::io::stdout().flush()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    say(not_written(&error));
                    ExitCode::from(FAILED)
                }
            };
        }
        Err(usage) => {
            say(usage);
            return ExitCode::from(WRONG_USAGE);
        }
    };
    let is_daemon = matches!(cli.command, Command::Run { .. });
    let wrong =
        logging::init(cli.settings.log_format.as_deref(), cli.settings.rust_log.as_deref(), is_daemon);
    let report = |line: &str| if is_daemon { tracing::error!("{line}") } else { say(line) };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            report(&format!("the runtime cannot be started: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let result = runtime.block_on(dispatch(&cli, wrong));
    runtime.shutdown_timeout(Duration::from_millis(200));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Reported(status)) => ExitCode::from(status),
        Err(Failure::Failed(error)) => {
            if let Some(SettingErrors(errors)) = error.downcast_ref() {
                errors.iter().for_each(|error| report(&error.to_string()));
            } else {
                report(&format!("{error:#}"));
            }
            ExitCode::from(status(&error))
        }
    }
}

/// The exit status of an error. Wrong usage and a wrong setting have a status of their own, wherever they are found.
fn status(error: &anyhow::Error) -> u8 {
    let is_usage = error.is::<Usage>() || error.is::<SettingErrors>() || error.is::<SettingError>();
    if is_usage { WRONG_USAGE } else { FAILED }
}

/// The settings, the errors in them, and the variables that are probably misspelt settings.
fn settings(
    cli: &Cli,
    mut errors: Vec<SettingError>,
    need: Need,
) -> (Settings, Vec<SettingError>, Vec<String>) {
    let (settings, wrong) = Settings::read(&cli.settings, environment(), need);
    errors.extend(wrong);
    if need.database && !settings.database_url.is_empty() {
        errors.extend(connect::check_files(&settings.database_url).err());
    }
    if need.broker {
        errors.extend(kafka::properties::check_properties(&settings));
    }
    let named = |name: &str| errors.iter().any(|error| error.name == name);
    let misspelt = misspelt(environment()).into_iter().filter(|variable| !named(&variable.name));
    let warnings = misspelt.map(|variable| variable.to_string()).collect();
    (settings, errors, warnings)
}

async fn dispatch(cli: &Cli, wrong_logging: Vec<SettingError>) -> Result<(), Failure> {
    let cancel = cancel_at_signals()?;
    let is_daemon = matches!(cli.command, Command::Run { .. });
    let read = |database: bool, broker: bool| settings(cli, wrong_logging.clone(), Need { database, broker });
    let settings = |database: bool, broker: bool| -> Result<Settings, Failure> {
        let (settings, errors, warnings) = read(database, broker);
        for warning in warnings {
            if is_daemon { tracing::warn!("{warning}") } else { say(warning) }
        }
        if database && errors.is_empty() {
            note_ignored_parameters(&settings);
        }
        if errors.is_empty() { Ok(settings) } else { Err(SettingErrors(errors).into()) }
    };
    match &cli.command {
        Command::Run { migrate } => Ok(daemon::run(&settings(true, true)?, *migrate, cancel).await?),
        Command::Migrate(what) => Ok(migrate::run(&settings(true, false)?, what, cli.json).await?),
        Command::Check => {
            let (settings, errors, warnings) = read(true, true);
            match check::run(&settings, &errors, &warnings, cli.json).await? {
                check::CheckVerdict::Works => Ok(()),
                check::CheckVerdict::Fails => Err(Failure::Reported(FAILED)),
                check::CheckVerdict::WrongSetting => Err(Failure::Reported(WRONG_USAGE)),
            }
        }
        Command::Status { watch, fail_on } => {
            let fail_on = fail_on.map(|fail_on| match fail_on {
                FailOn::Warning => Severity::Warning,
                FailOn::Critical => Severity::Critical,
            });
            let options = status::StatusOptions { watch: *watch, fail_on, json: cli.json };
            fail_unless(status::run(&settings(true, true)?, options, cancel).await?)
        }
        Command::Replay { topic, partition, from, to, dry_run } => {
            let options = replay::ReplayOptions {
                topic: topic.clone(),
                partition: *partition,
                from: from.clone(),
                to: to.clone(),
                dry_run: *dry_run,
            };
            let settings = settings(true, true)?;
            let replay = replay::run(&settings, options, cli.json, cancel);
            let outcome = traces::during(&settings, replay).await?;
            fail_unless(outcome == replay::ReplayOutcome::Done)
        }
        Command::Skip { topic, partition, to, note } => {
            let partition = TopicPartition::new(*topic, *partition);
            Ok(skip::run(&settings(true, true)?, partition, *to, note, cli.json).await?)
        }
        Command::Pause { topic, time } => {
            Ok(pause::pause(&settings(true, false)?, *topic, *time, cli.json).await?)
        }
        Command::Resume { topic } => Ok(pause::resume(&settings(true, false)?, *topic, cli.json).await?),
        Command::DeadLetters { what } => {
            let sends = matches!(what, Some(DeadLetters::Fix(_)));
            let settings = settings(true, sends)?;
            let work = dead_letters::run(&settings, what.as_ref(), cli.json, cancel);
            fail_unless(traces::during(&settings, work).await?)
        }
        Command::Tap(args) => {
            // without a database, the command shows what it can
            let database = std::env::var_os("DATABASE_URL").is_some_and(|url| !url.is_empty());
            Ok(tap::run(&settings(database, true)?, args, cli.json, cancel).await?)
        }
        Command::Publish { topic, check: true, file } => fail_unless(
            publish::check::run(&settings(false, false)?, topic, file.as_deref(), cli.json, cancel).await?,
        ),
        Command::Publish { topic, check: false, file } => fail_unless(
            publish::run(&settings(false, true)?, topic, file.as_deref(), cli.json, cancel).await?,
        ),
        Command::Schema { topic } => Ok(schema::run(topic.as_deref())?),
        Command::WhereIs { caller, within } => {
            // checked first, as the caller's id may be read from a terminal
            let caller = where_is::caller(caller)?;
            Ok(where_is::run(&settings(true, false)?, &caller, *within, cli.json).await?)
        }
        Command::Completions { shell } => Ok(manual::completions(*shell)?),
        Command::Man { command } => Ok(manual::man(command)?),
        Command::Simulate { calls, rate, seed, since, until, disorder } => {
            let options = simulate::SimulateOptions {
                calls: *calls,
                rate: *rate,
                seed: *seed,
                disorder: *disorder,
                since: *since,
                until: *until,
            };
            Ok(simulate::run(&settings(false, true)?, options, cli.json, cancel).await?)
        }
        Command::Report { since, until, html, csv } => {
            let settings = settings(true, false)?;
            let form = report::Form::of(html.as_deref(), *csv, cli.json);
            Ok(report::run(&settings, *since, *until, form).await?)
        }
        Command::Demo { calls, seed, keep, disorder } => {
            let options = demo::DemoOptions { calls: *calls, seed: *seed, keep: *keep, disorder: *disorder };
            Ok(demo::run(&settings(false, false)?, options, cancel).await?)
        }
    }
}

/// Logs in one line the parameters of `DATABASE_URL` that only another driver knows.
fn note_ignored_parameters(settings: &Settings) {
    let ignored = database_url::check(&settings.database_url).unwrap_or_default();
    if !ignored.is_empty() {
        tracing::warn!("DATABASE_URL: ignored, as only another driver knows them: {}", ignored.join(", "));
    }
}

fn fail_unless(succeeded: bool) -> Result<(), Failure> {
    if succeeded { Ok(()) } else { Err(Failure::Reported(FAILED)) }
}

/// SIGTERM and SIGINT ask for an orderly end.
fn cancel_at_signals() -> Result<CancellationToken, Failure> {
    use anyhow::Context;
    use tokio::signal::unix::{SignalKind, signal};
    let cancel = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
    let token = cancel.clone();
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal, "asked to end: what is in flight is finished");
        token.cancel();
    });
    Ok(cancel)
}

//! The command line: commands, flags and `--help`. A usage error ends with a line that says what to do.

pub mod command;
pub mod dead_letters;
mod help;
pub mod settings;
pub mod tap;
#[cfg(test)]
mod tests;
mod usage;
mod values;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{FromArgMatches as _, Parser};

pub use self::command::{Command, FailOn, Migrate};
pub use self::dead_letters::DeadLetters;
pub use self::help::definition;
pub use self::settings::SettingFlags;
pub use self::usage::Usage;
use self::usage::usage;

const PROGRAM: &str = "voiceclone-events";

/// Consumes voice-clone events from Kafka into PostgreSQL, exactly as if each had arrived once and in order
#[derive(Debug, Clone, Parser)]
#[command(name = PROGRAM, version)]
#[command(subcommand_required = true)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// Print JSON for a program instead of tables and sentences
    #[arg(long, global = true)]
    pub json: bool,
    /// The settings given as flags or in the environment.
    #[command(flatten)]
    pub settings: SettingFlags,
}

/// The result of parsing the command line.
pub enum CommandLine {
    /// A command.
    Command(Box<Cli>),
    /// The text of `--help` or `--version`, for standard output.
    Text(clap::Error),
}

/// Reads this process's command line.
pub fn parse() -> Result<CommandLine, Usage> {
    match parse_from(std::env::args_os()) {
        Ok(cli) => Ok(CommandLine::Command(Box::new(cli))),
        Err(text) if matches!(text.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(CommandLine::Text(text))
        }
        Err(error) => Err(usage(&error)),
    }
}

fn parse_from(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Cli, clap::Error> {
    let mut definition = help::laid_out(definition());
    let mut matches = definition.try_get_matches_from_mut(words)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut definition))
}

//! Usage errors. The last line names the problem and says what to do.

use std::fmt;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{Cli, PROGRAM};

/// A usage error, wherever it is found: exit status 2. The last line names the problem and says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage(String);

impl Usage {
    /// A usage error that only a command can find, such as an unknown topic.
    pub fn new(text: impl Into<String>) -> Usage {
        Usage(text.into())
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

pub(super) fn usage(error: &clap::Error) -> Usage {
    let rendered = error.render().to_string();
    let text = rendered.split("\nFor more information, try").next().unwrap_or_default().trim_end();
    Usage(format!("{text}\n\n{}", advice(error)))
}

/// One line with the problem and the remedy.
fn advice(error: &clap::Error) -> String {
    let of = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.escape_debug().to_string(),
        Some(ContextValue::Strings(texts)) => texts.join(", ").escape_debug().to_string(),
        Some(ContextValue::StyledStr(text)) => text.to_string(),
        Some(ContextValue::StyledStrs(texts)) => {
            texts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
        _ => String::new(),
    };
    let arg = of(ContextKind::InvalidArg);
    let value = of(ContextKind::InvalidValue);
    let help = "see --help";
    match error.kind() {
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // clap names the command that lacks one only in its usage line
            let text = error.render().to_string();
            let program = Cli::command();
            let mut groups = program.get_subcommands().filter(|command| command.has_subcommands());
            match groups.find(|group| text.contains(&format!("Usage: {PROGRAM} {}", group.get_name()))) {
                Some(group) => {
                    format!("a command is missing after {}: give one of {}", group.get_name(), names(group))
                }
                None => format!("a command is missing: give one of {}", names(&program)),
            }
        }
        ErrorKind::InvalidSubcommand => {
            let close = of(ContextKind::SuggestedSubcommand);
            let remedy = if close.is_empty() {
                help.to_owned()
            } else {
                format!("perhaps {close} is meant, or {help}")
            };
            format!("there is no command {:?}: {remedy}", of(ContextKind::InvalidSubcommand))
        }
        ErrorKind::UnknownArgument => {
            let close = of(ContextKind::SuggestedArg);
            let remedy = if close.is_empty() {
                format!("leave it out, or {help}")
            } else {
                format!("perhaps {close} is meant")
            };
            format!("{arg} is not known here: {remedy}")
        }
        ErrorKind::MissingRequiredArgument => format!("{arg} is missing: give it, or {help}"),
        ErrorKind::InvalidValue | ErrorKind::NoEquals if value.is_empty() => {
            format!("{arg} has no value: give one, or {help}")
        }
        ErrorKind::InvalidValue => {
            format!("{arg} cannot be {value:?}: give one of {}", of(ContextKind::ValidValue))
        }
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map_or_else(|| help.to_owned(), ToString::to_string);
            format!("{arg} cannot be {value:?}: {why}")
        }
        ErrorKind::ArgumentConflict => {
            format!("{arg} is given more than once, or beside what excludes it: keep one")
        }
        ErrorKind::InvalidUtf8 => "an argument or a setting is not UTF-8: write it in UTF-8".to_owned(),
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            format!("{}: {help}", first.trim_end_matches(':'))
        }
    }
}

fn names(command: &clap::Command) -> String {
    command.get_subcommands().map(clap::Command::get_name).collect::<Vec<_>>().join(", ")
}

//! `completions` and `man`: shell completions and manual pages, from the definition of the command line.

use anyhow::Context as _;
use clap_complete::Shell;

use crate::cli::{Usage, definition};
use crate::output::print;

/// Prints the completions for a shell.
pub fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut definition = definition();
    let name = definition.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut definition, name, &mut text);
    print(String::from_utf8_lossy(&text).trim_end())
}

/// Prints the manual page of the program, or of the command given by `words`.
pub fn man(words: &[String]) -> anyhow::Result<()> {
    let mut definition = definition();
    definition.build();
    let mut command = &definition;
    let mut name = definition.get_name().to_owned();
    for word in words {
        let Some(found) = command.find_subcommand(word) else {
            return Err(Usage::new(format!("there is no command {word:?}: see --help")).into());
        };
        command = found;
        name = format!("{name}-{word}");
    }
    let mut text = Vec::new();
    let page = clap_mangen::Man::new(command.clone()).title(name);
    page.render(&mut text).context("the page could not be rendered")?;
    print(String::from_utf8_lossy(&text).trim_end())
}

//! `dead-letters show`: one letter.

use std::io::Write as _;

use anyhow::{Context as _, bail};

use super::layout;
use crate::config::Settings;
use crate::output::{not_written, print, say};

/// Prints the letter; an error where the id does not exist.
pub async fn run(settings: &Settings, id: i64, reveal: bool, raw: bool, json: bool) -> anyhow::Result<()> {
    let store = crate::commands::store(settings).await?;
    let letters = store.load_letters(&[id]).await.context("the dead letter could not be read")?;
    let Some(letter) = letters.first() else {
        bail!("there is no dead letter {id}: `voiceclone-events dead-letters list` shows them");
    };
    if raw {
        let Some(value) = &letter.value else {
            say("The value is null: there are no bytes.");
            return Ok(());
        };
        let mut out = std::io::stdout().lock();
        return out
            .write_all(value)
            .and_then(|()| out.flush())
            .map_err(|error| anyhow::Error::msg(not_written(&error)));
    }
    if json {
        return print(layout::object(letter, reveal));
    }
    print(layout::text(letter, reveal))
}

//! One module a command.

pub mod check;
pub mod dead_letters;
pub mod demo;
pub mod migrate;
pub mod publish;
pub mod replay;
pub mod simulate;
mod tally;

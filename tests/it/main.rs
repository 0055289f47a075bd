//! The tests that need the world outside: a broker, a database, the compiled program.

mod analytics;
mod bounded;
mod check;
mod commands;
mod database;
mod demo;
mod drift;
mod end_to_end;
mod exit_status;
mod expiry;
mod faults;
mod fire;
mod fuzz;
mod histories;
mod infrastructure;
mod letters;
mod letters_commands;
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod model;
mod partitions;
mod poison;
mod reach;
mod replay;
mod rules;
mod schema;
mod security;
mod simulate;
mod status;
mod support;
mod tables;

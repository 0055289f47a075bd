//! The tests that need the world outside: a broker, a database, the compiled program.

mod infrastructure;
mod schema;
mod support;

//! More than one machine holds: several instances, several brokers, and tables that outgrow one table.
//!
//! - [`brokers`]: one, two and four instances on three brokers whose leaders move;
//! - [`autoscaler`]: the lag by which an autoscaler decides;
//! - [`tables`]: rows in several tables behind the documented names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod autoscaler;
mod brokers;
mod tables;

use std::time::Duration;

/// A deadline that is long enough on a busy machine.
const MINUTES: Duration = Duration::from_secs(180);

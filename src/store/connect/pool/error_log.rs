//! The log of connections that fail.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{ConnectError, Failed, PoolShared, SUBJECT};
use crate::outage;

/// Logs why connections fail: one line for each outage, not one for each connection.
#[derive(Clone)]
pub(super) struct ErrorLog(pub(super) Arc<PoolShared>);

impl std::fmt::Debug for ErrorLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ErrorLog")
    }
}

impl bb8::ErrorSink<Failed> for ErrorLog {
    fn sink(&self, failed: Failed) {
        let reason = failed.refusal.to_string();
        if failed.was_open {
            self.0.state().answers = false;
            // a connection that died is replaced; if that fails, it is an outage
            match failed.refusal {
                ConnectError::Person(_) => outage::failed(SUBJECT, &reason),
                ConnectError::Away(_) => tracing::debug!(reason, "a connection to PostgreSQL has died"),
            }
            return;
        }
        let (connections, answers) = {
            let mut state = self.0.state();
            state.refusal = Some(reason.clone());
            (state.open.len(), state.answers)
        };
        if connections == 0 || !answers {
            outage::failed(SUBJECT, &reason);
        } else if !self.0.is_short.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                connections,
                reason,
                "PostgreSQL gives fewer connections than DB_POOL_SIZE and DB_MAX_OVERFLOW allow; the work goes on with these"
            );
        }
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<Failed>> {
        Box::new(self.clone())
    }
}

//! Long computations, which keep the runtime's workers from their other tasks.

use tokio::runtime::{Handle, RuntimeFlavor};

/// The most bytes whose decoding stays on its worker. They take about a millisecond.
const INLINE_MAX_BYTES: usize = 256 * 1024;

/// Runs a computation over this many bytes. If they are many, the worker's other tasks move to another thread first.
pub fn compute<T>(bytes: usize, computation: impl FnOnce() -> T) -> T {
    // a runtime of one thread has no other one to move them to
    let has_workers =
        || Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes > INLINE_MAX_BYTES && has_workers() {
        tokio::task::block_in_place(computation)
    } else {
        computation()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn another_task_of_the_only_worker_runs_during_a_long_computation() {
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let computation = runtime.spawn(async {
            let (sender, receiver) = mpsc::channel();
            tokio::spawn(async move { sender.send(()) });
            compute(usize::MAX, || receiver.recv_timeout(Duration::from_secs(30)))
        });
        assert_eq!(runtime.block_on(computation).unwrap(), Ok(()));
    }

    #[test]
    fn a_computation_may_hold_another_one_and_needs_no_workers() {
        let nested = || compute(usize::MAX, || compute(usize::MAX, || 7));
        let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        assert_eq!(runtime.block_on(async { tokio::spawn(async move { nested() }).await.unwrap() }), 7);
        assert_eq!(runtime.block_on(async move { nested() }), 7);
        assert_eq!(Builder::new_current_thread().build().unwrap().block_on(async move { nested() }), 7);
        assert_eq!(nested(), 7);
    }
}

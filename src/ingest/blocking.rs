//! Keeps the runtime's workers free while large amounts are decoded.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Decoding more bytes than this takes milliseconds; 8 MiB, the largest record, takes tens of them.
pub(super) const LONG_WORK_BYTES: usize = 1 << 20;

/// Runs `work` on this thread. If `bytes` is large, the worker's other tasks move to another thread first.
pub(super) fn off_the_workers<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let many_workers =
        || Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes >= LONG_WORK_BYTES && many_workers() { tokio::task::block_in_place(work) } else { work() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_of_the_worker_run_while_many_bytes_are_decoded() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let decoding = tokio::spawn(async move {
            let other = tokio::spawn(async move { sender.send(()).unwrap() });
            // Waits for the other task, which the only worker would otherwise run only afterwards.
            off_the_workers(LONG_WORK_BYTES, || receiver.recv_timeout(Duration::from_secs(30)).unwrap());
            other.await.unwrap();
        });
        decoding.await.unwrap();
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_does_the_work_at_once() {
        assert_eq!(off_the_workers(LONG_WORK_BYTES, || 7), 7);
    }
}

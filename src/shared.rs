//! One computation for all callers: at most one at a time, and its result is reused for some seconds.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

/// Maximum age of a result that is reused.
const FRESH: Duration = Duration::from_secs(5);

/// Maximum time that a caller waits for a result. Then it gets the previous one.
const PATIENCE: Duration = Duration::from_secs(7);

/// Maximum number of waiting callers. Others get the previous result, so that they take no connection from
/// `/healthz`.
const WAITING: usize = 16;

type Compute<T> = dyn Fn() -> Pin<Box<dyn Future<Output = Option<T>> + Send>> + Send + Sync;

/// A result, and the time when it was ready.
#[derive(Debug)]
pub struct Computed<T> {
    /// The result.
    pub result: Arc<T>,
    /// When it was ready.
    pub at: Instant,
}

impl<T> Clone for Computed<T> {
    fn clone(&self) -> Computed<T> {
        Computed { result: self.result.clone(), at: self.at }
    }
}

struct SharedState<T> {
    made: Option<Computed<T>>,
    busy: bool,
}

struct Inner<T> {
    compute: Box<Compute<T>>,
    state: watch::Sender<SharedState<T>>,
    places: Semaphore,
    patience: Duration,
}

/// The computation and its latest result.
pub struct Shared<T>(Arc<Inner<T>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared(self.0.clone())
    }
}

/// Marks the computation as ended when dropped, also after a panic.
struct BusyGuard<T>(Arc<Inner<T>>);

impl<T> Drop for BusyGuard<T> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.busy = false);
    }
}

impl<T: Send + Sync + 'static> Shared<T> {
    /// Computes nothing until somebody asks. A computation that returns `None` leaves the previous result in place.
    pub fn new<F>(compute: impl Fn() -> F + Send + Sync + 'static) -> Shared<T>
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        Shared::patient(PATIENCE, compute)
    }

    fn patient<F>(patience: Duration, compute: impl Fn() -> F + Send + Sync + 'static) -> Shared<T>
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let state = watch::Sender::new(SharedState { made: None, busy: false });
        let compute: Box<Compute<T>> = Box::new(move || Box::pin(compute()));
        Shared(Arc::new(Inner { compute, state, places: Semaphore::new(WAITING), patience }))
    }

    /// The latest result, computed again if it is old; `None` if there is none within the time.
    pub async fn get(&self) -> Option<Computed<T>> {
        let mut changes = self.0.state.subscribe();
        let begins = self.0.state.send_if_modified(|state| {
            let begins = !state.busy && state.made.as_ref().is_none_or(|made| made.at.elapsed() >= FRESH);
            state.busy |= begins;
            begins
        });
        if begins {
            let busy = BusyGuard(self.0.clone());
            tokio::spawn(async move {
                let inner = &busy.0;
                if let Some(result) = (inner.compute)().await {
                    let made = Computed { result: Arc::new(result), at: Instant::now() };
                    inner.state.send_modify(|state| state.made = Some(made));
                }
            });
        }
        if let Ok(_place) = self.0.places.try_acquire() {
            let ended = changes.wait_for(|state| !state.busy);
            // the sender lives as long as `self`
            drop(tokio::time::timeout(self.0.patience, ended).await);
        }
        self.latest()
    }

    /// The latest result, however old.
    pub fn latest(&self) -> Option<Computed<T>> {
        self.0.state.borrow().made.clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts the computations. Each one ends once it is released.
    fn counting(patience: Duration) -> (Shared<u32>, Arc<AtomicU32>, Arc<Semaphore>) {
        let (count, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let (counted, waits) = (count.clone(), gate.clone());
        let shared = Shared::patient(patience, move || {
            let (number, gate) = (counted.fetch_add(1, Ordering::SeqCst) + 1, waits.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                (number != 2).then_some(number)
            }
        });
        (shared, count, gate)
    }

    async fn results(shared: &Shared<u32>, callers: usize) -> Vec<Option<u32>> {
        let asks = (0..callers).map(|_| async { shared.get().await.map(|made| *made.result) });
        futures_util::future::join_all(asks).await
    }

    #[tokio::test]
    async fn many_callers_cost_one_computation_and_a_young_result_costs_none() {
        let (shared, count, gate) = counting(PATIENCE);
        gate.add_permits(1);
        assert_eq!(results(&shared, WAITING).await, vec![Some(1); WAITING]);
        assert_eq!(results(&shared, 100).await, vec![Some(1); 100]);
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_computation_that_takes_long_holds_up_few_callers() {
        let (shared, count, gate) = counting(PATIENCE * 100);
        let waiting = tokio::spawn({
            let shared = shared.clone();
            async move { results(&shared, WAITING).await }
        });
        while shared.0.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(results(&shared, 100).await, vec![None; 100], "while the computation goes on");
        gate.add_permits(1);
        assert_eq!(waiting.await.unwrap(), vec![Some(1); WAITING]);
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_computation_that_takes_too_long_goes_on_without_its_callers() {
        let (shared, count, gate) = counting(Duration::ZERO);
        assert_eq!(results(&shared, 3).await, vec![None; 3]);
        gate.add_permits(1);
        while shared.latest().is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!((results(&shared, 3).await, count.load(Ordering::SeqCst)), (vec![Some(1); 3], 1));
    }

    #[tokio::test]
    async fn a_computation_that_fails_or_panics_leaves_the_result_before_and_is_tried_again() {
        let (shared, count, gate) = counting(PATIENCE);
        gate.add_permits(3);
        assert_eq!(results(&shared, 1).await, [Some(1)]);
        let old = |shared: &Shared<u32>| {
            shared.0.state.send_modify(|state| {
                let made = state.made.as_mut().unwrap();
                made.at = made.at.checked_sub(FRESH).unwrap();
            });
        };
        old(&shared);
        assert_eq!(results(&shared, 1).await, [Some(1)], "the second gives nothing");
        assert_eq!(results(&shared, 1).await, [Some(3)]);
        assert_eq!(count.load(Ordering::SeqCst), 3);

        let dies: Shared<u32> = Shared::new(|| async { panic!("it dies") });
        assert_eq!(results(&dies, 2).await, [None, None]);
        assert!(!dies.0.state.borrow().busy);
    }
}

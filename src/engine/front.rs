//! Separate threads for accepting events, beside those that run turns and everything else.
//!
//! There are half as many as cores: with few threads, more events are committed and answered together,
//! and no event waits behind a turn. Measured on two cores, with one such thread: it accepts a tenth
//! more than two threads shared by everything.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinError, JoinSet};

/// Number of tasks after which a thread polls the global queue, where the answers to a whole batch
/// wait.
const LOOK_ROUND_AFTER: u32 = 4;

/// The threads. Dropping this ends them.
pub struct Front {
    runtime: Option<Runtime>,
    rest: Handle,
}

impl Front {
    /// Starts the threads, beside those of the calling runtime.
    ///
    /// # Errors
    /// The system refuses to create threads.
    pub fn start(cores: usize) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads((cores / 2).max(1))
            .global_queue_interval(LOOK_ROUND_AFTER)
            .thread_name("front")
            .enable_all()
            .build()?;
        Ok(Self {
            runtime: Some(runtime),
            rest: Handle::current(),
        })
    }

    /// Handle to spawn tasks on these threads.
    pub fn handle(&self) -> &Handle {
        self.runtime.as_ref().map_or(&self.rest, Runtime::handle)
    }

    /// Runs `work` on the other threads, so that it delays no event. Dropping the future ends the work,
    /// and a panic of the work is passed to the caller. `None` when the process ends.
    pub async fn elsewhere<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let mut task = JoinSet::new();
        task.spawn_on(work, &self.rest);
        match task.join_next().await?.map_err(JoinError::try_into_panic) {
            Ok(done) => Some(done),
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => None,
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // The owner may be dropped in a task, where waiting for threads is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_is_done_elsewhere_is_done_on_the_other_threads() {
        let front = Arc::new(Front::start(4).unwrap());
        let elsewhere = front.clone();
        let names = front.handle().spawn(async move {
            let name = || std::thread::current().name().map(str::to_owned);
            (name(), elsewhere.elsewhere(async move { name() }).await)
        });
        let (own, other) = names.await.unwrap();
        assert_eq!(own.as_deref(), Some("front"));
        assert_ne!(other.unwrap().as_deref(), Some("front"));
    }

    #[tokio::test]
    async fn work_elsewhere_ends_with_whoever_waits_for_it_and_its_panic_is_his() {
        let front = Arc::new(Front::start(2).unwrap());
        let (kept, is_kept) = oneshot::channel::<()>();
        let (begins, began) = oneshot::channel();
        let elsewhere = front.clone();
        let waiting = front.handle().spawn(async move {
            let never = async move {
                let _kept = kept;
                begins.send(()).unwrap();
                std::future::pending::<()>().await;
            };
            elsewhere.elsewhere(never).await
        });
        began.await.unwrap();
        waiting.abort();
        assert!(is_kept.await.is_err(), "what nobody waits for has gone");

        let panics = front.elsewhere(async { panic!("by intent") });
        let caught = std::panic::AssertUnwindSafe(panics);
        let caught = futures_util::FutureExt::catch_unwind(caught).await;
        assert!(caught.is_err());
    }
}

//! A reader that takes nothing while bytes wait for it pins its window for ever: its stream is reset (SPEC.md §5.4).
//!
//! hyper sends a body from a task of its own, which it hands to an executor, and waits there for the peer's
//! window. [`StreamExecutor`] runs that task; a body that is [`Watched`] tells it when bytes were handed out and
//! nobody has asked for more. When that lasts too long the task is dropped, which resets the stream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tokio_util::task::TaskTracker;

tokio::task_local! {
    static PROGRESS: Arc<Progress>;
}

/// Runs the streams of one HTTP/2 connection, and ends those whose peer stopped reading.
#[derive(Clone)]
pub struct StreamExecutor {
    tasks: TaskTracker,
    stall: Duration,
}

impl StreamExecutor {
    /// `tasks` owns every task that is started; `stall` is how long a peer may read nothing while bytes wait.
    #[must_use]
    pub fn new(tasks: TaskTracker, stall: Duration) -> Self {
        Self { tasks, stall }
    }
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let progress = Arc::new(Progress::new());
        let guarded = Guarded {
            task: Box::pin(task),
            progress: Arc::clone(&progress),
            stall: self.stall,
            timer: None,
        };
        drop(self.tasks.spawn(PROGRESS.scope(progress, guarded)));
    }
}

/// A body that says when its bytes are waiting to be taken. Must be made within the stream's own task.
///
/// Where the body breaks, that is told one turn later: hyper drops what it has not sent by then, the head of the
/// answer included, and an HTTP/1 peer would see the connection close without an answer.
pub struct Watched<B: Body> {
    body: B,
    progress: Option<Arc<Progress>>,
    broken: Option<B::Error>,
}

impl<B: Body> Watched<B> {
    /// Watches `body` for the stream whose service is running.
    pub fn new(body: B) -> Self {
        Self {
            body,
            progress: PROGRESS.try_with(Arc::clone).ok(),
            broken: None,
        }
    }
}

impl<B: Body<Data = Bytes, Error: Unpin> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(progress) = &self.progress {
            progress.asked();
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(progress) = &self.progress {
                    progress.handed_out();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Since when bytes have been waiting, in milliseconds from `start`, plus one; 0 while none are.
struct Progress {
    start: Instant,
    waiting: AtomicU64,
}

impl Progress {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            waiting: AtomicU64::new(0),
        }
    }

    fn handed_out(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.waiting.store(millis + 1, Ordering::Relaxed);
    }

    fn asked(&self) {
        self.waiting.store(0, Ordering::Relaxed);
    }

    fn waiting_since(&self) -> Option<Instant> {
        let millis = self.waiting.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.start + Duration::from_millis(millis))
    }
}

/// One stream's task, dropped when its bytes have waited for `stall`.
struct Guarded<F> {
    task: Pin<Box<F>>,
    progress: Arc<Progress>,
    stall: Duration,
    /// Made when bytes first wait; most answers never need it.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Guarded<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.task.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // Without bytes that wait, the task is woken by its body or its peer, and looks again.
        while let Some(since) = self.progress.waiting_since() {
            let deadline = since + self.stall;
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use http_body_util::{BodyExt, Full};
    use hyper::rt::Executor;

    use super::*;

    const STALL: Duration = Duration::from_secs(300);

    /// Runs a stream that takes one chunk of a watched body, then does what `after` does.
    fn stream<F: Future<Output = ()> + Send + 'static>(
        after: impl FnOnce(Watched<Full<Bytes>>) -> F + Send + 'static,
    ) -> TaskTracker {
        let tasks = TaskTracker::new();
        StreamExecutor::new(tasks.clone(), STALL).execute(async move {
            let mut body = Watched::new(Full::new(Bytes::from_static(b"x")));
            body.frame().await.unwrap().unwrap();
            after(body).await;
        });
        tasks.close();
        tasks
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_bytes_wait_too_long_is_dropped() {
        let start = Instant::now();
        stream(|body| async move {
            pending::<()>().await;
            drop(body);
        })
        .wait()
        .await;
        assert!(
            (STALL..STALL * 2).contains(&start.elapsed()),
            "{:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_waits_for_its_body_is_left_alone() {
        let tasks = stream(|mut body| async move {
            // The next chunk is asked for: it is the body's turn, not the reader's.
            assert!(body.frame().await.is_none());
            pending::<()>().await;
        });
        assert!(
            tokio::time::timeout(STALL * 10, tasks.wait())
                .await
                .is_err()
        );
    }
}

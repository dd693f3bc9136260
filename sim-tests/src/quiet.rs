//! Futures that leave a task alone. madsim's timers are registered anew at every poll, and wake whoever polled when they
//! are due, wanted or not: a task that waits for several things at once is polled for each of them, leaves a timer behind
//! every time, and is woken by all of them later.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures::{Stream, task::AtomicWaker};
use madsim::time::{Sleep, sleep};

/// Stands between what wakes and the task that is to be woken.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        self.task.wake();
    }
}

/// A stream that is polled only when it was woken itself, however often its task is.
pub(crate) struct Quiet<S> {
    stream: S,
    bell: Arc<Bell>,
    waker: Waker,
}

impl<S> Quiet<S> {
    pub(crate) fn new(stream: S) -> Quiet<S> {
        let bell = Arc::new(Bell::default());
        bell.rung.store(true, Ordering::SeqCst);
        Quiet {
            stream,
            waker: Waker::from(bell.clone()),
            bell,
        }
    }
}

impl<S: Stream + Unpin> Stream for Quiet<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let Quiet { stream, bell, waker } = &mut *self;
        bell.task.register(context.waker());
        if !bell.rung.swap(false, Ordering::SeqCst) {
            return Poll::Pending;
        }
        let polled = Pin::new(stream).poll_next(&mut Context::from_waker(waker));
        if polled.is_ready() {
            // There may be more.
            bell.rung.store(true, Ordering::SeqCst);
        }
        polled
    }
}

/// A timer that is registered once, and wakes nobody any more when it is dropped.
pub(crate) struct Alarm {
    sleep: Sleep,
    bell: Option<Arc<Bell>>,
}

impl Alarm {
    /// Ready after so much simulated time, a millisecond at least.
    pub(crate) fn after(duration: Duration) -> Alarm {
        Alarm {
            sleep: sleep(duration),
            bell: None,
        }
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.sleep.is_elapsed() {
            return Poll::Ready(());
        }
        if let Some(bell) = &self.bell {
            bell.task.register(context.waker());
            return Poll::Pending;
        }
        let bell = Arc::new(Bell::default());
        bell.task.register(context.waker());
        let waker = Waker::from(bell.clone());
        self.bell = Some(bell);
        Pin::new(&mut self.sleep).poll(&mut Context::from_waker(&waker))
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(bell) = &self.bell {
            bell.task.take();
        }
    }
}

/// What a future comes to, or nothing if that takes longer.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let alarm = Alarm::after(limit);
    tokio::select! {
        biased;
        done = future => Some(done),
        () = alarm => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use futures::{StreamExt, future::poll_fn, stream};
    use madsim::{runtime::Runtime, time::TimeHandle};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn simulated<T>(story: impl Future<Output = T>) -> T {
        Runtime::new().block_on(story)
    }

    /// Polls `future` to its end, and counts.
    async fn polls_of(future: impl Future) -> u32 {
        let mut future = std::pin::pin!(future);
        let mut polls = 0;
        poll_fn(|context| {
            polls += 1;
            future.as_mut().poll(context).map(|_| ())
        })
        .await;
        polls
    }

    #[test]
    fn what_was_not_woken_is_not_polled() {
        simulated(async {
            let inner = AtomicU32::new(0);
            let asleep = stream::poll_fn(|_| {
                inner.fetch_add(1, Ordering::SeqCst);
                Poll::<Option<()>>::Pending
            });
            let mut quiet = Quiet::new(asleep);
            for _ in 0..5 {
                assert!(within(SECOND, quiet.next()).await.is_none());
            }
            assert_eq!(inner.load(Ordering::SeqCst), 1);
        });
    }

    #[test]
    fn everything_of_a_stream_comes_when_it_is_due() {
        simulated(async {
            let ticks = stream::unfold((), |()| async { Some((sleep(SECOND).await, ())) });
            let mut quiet = Quiet::new(Box::pin(ticks));
            for second in 1..=5 {
                quiet.next().await;
                assert_eq!(TimeHandle::current().elapsed().as_secs(), second);
            }
            let mut at_once = Quiet::new(stream::iter(0..5));
            for number in 0..5 {
                assert_eq!(at_once.next().await, Some(number));
            }
            assert_eq!(at_once.next().await, None);
        });
    }

    #[test]
    fn an_alarm_is_in_time_and_wakes_once() {
        simulated(async {
            assert_eq!(polls_of(Alarm::after(SECOND)).await, 2);
            assert_eq!(TimeHandle::current().elapsed().as_secs(), 1);
        });
    }

    #[test]
    fn an_alarm_that_was_dropped_wakes_nobody() {
        simulated(async {
            let done = polls_of(async {
                assert!(within(SECOND, sleep(SECOND / 2)).await.is_some());
                sleep(3 * SECOND).await;
            });
            // First, after half a second, after three more; not after one.
            assert_eq!(done.await, 3);
        });
    }
}

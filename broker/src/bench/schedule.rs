//! When messages are due.
//!
//! Open loop: arrival times are fixed in advance, constant or Poisson, and do not care how the
//! cluster is doing; what is sent late counts from when it was due. Closed loop: the next message
//! is due when the one before has been answered.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::body::Random;
use super::limits::MAX_DUE;
use super::locked;

/// How arrivals of an open loop are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Arrivals {
    /// Every message the same time after the one before
    Constant,
    /// Independent arrivals, as of many clients that know nothing of each other
    Poisson,
}

/// The arrival times of an open loop, as distances from its start; endless.
#[derive(Debug)]
pub(super) struct Schedule {
    arrivals: Arrivals,
    interval_ns: f64,
    random: Random,
    count: u64,
    poisson_ns: f64,
}

impl Schedule {
    /// `rate` is in messages a second and positive.
    pub(super) fn new(arrivals: Arrivals, rate: f64, seed: u64) -> Self {
        assert!(rate > 0.0, "a rate of {rate} messages a second");
        Self {
            arrivals,
            interval_ns: 1e9 / rate,
            random: Random::new(seed),
            count: 0,
            poisson_ns: 0.0,
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let at_ns = match self.arrivals {
            // From the count, so that rounding does not add up.
            Arrivals::Constant => self.count as f64 * self.interval_ns,
            Arrivals::Poisson => {
                self.poisson_ns -= self.random.fraction().ln() * self.interval_ns;
                self.poisson_ns
            }
        };
        self.count += 1;
        Some(Duration::from_nanos(at_ns as u64))
    }
}

/// Hands out due times to whoever sends.
#[derive(Clone)]
pub(super) enum Source {
    /// A message is due whenever somebody is free to send it.
    Closed { until: Instant },
    /// Messages are due by their schedule.
    Open(Arc<Due>),
}

impl Source {
    /// When the next message is, or was, due; `None` once the time is up.
    pub(super) async fn next(&self) -> Option<Instant> {
        match self {
            Self::Closed { until } => {
                let now = Instant::now();
                (now < *until).then_some(now)
            }
            Self::Open(due) => due.next().await,
        }
    }

    /// Messages that are due and that nobody was free to send: now, and at the worst moment.
    pub(super) fn backlog(&self) -> (usize, usize) {
        match self {
            Self::Closed { .. } => (0, 0),
            Self::Open(due) => (locked(&due.waiting).len(), due.longest.load(Ordering::Relaxed)),
        }
    }
}

/// Messages whose time has come, in order.
pub(super) struct Due {
    waiting: Mutex<VecDeque<Instant>>,
    longest: AtomicUsize,
    count: Semaphore,
}

/// The pacing thread looks at most this often: a finer grain would cost more than it shows.
const GRAIN: Duration = Duration::from_micros(200);

impl Due {
    /// Starts handing out at `start` and ends at `until`. The pacing has a thread of its own,
    /// because the runtime's timers are a millisecond coarse, as long as a whole send.
    pub(super) fn start(schedule: Schedule, start: Instant, until: Instant) -> Arc<Self> {
        let due = Arc::new(Self {
            waiting: Mutex::new(VecDeque::new()),
            longest: AtomicUsize::new(0),
            count: Semaphore::new(0),
        });
        let pacing = due.clone();
        std::thread::Builder::new()
            .name("bench-pacer".to_owned())
            .spawn(move || pacing.pace(schedule, start, until))
            .expect("the system starts a thread");
        due
    }

    fn pace(&self, schedule: Schedule, start: Instant, until: Instant) {
        let mut arrivals = schedule
            .map(|after| start + after)
            .take_while(|at| *at < until)
            .peekable();
        while let Some(next) = arrivals.peek().copied() {
            let wait = next.saturating_duration_since(Instant::now());
            std::thread::sleep(wait.clamp(GRAIN, 100 * GRAIN));
            self.release(&mut arrivals);
            if Instant::now() >= until {
                break;
            }
        }
        if let Some(rest) = until.checked_duration_since(Instant::now()) {
            std::thread::sleep(rest);
        }
        self.count.close();
    }

    fn release(&self, arrivals: &mut std::iter::Peekable<impl Iterator<Item = Instant>>) {
        let now = Instant::now();
        let mut waiting = locked(&self.waiting);
        let before = waiting.len();
        while waiting.len() < MAX_DUE
            && let Some(at) = arrivals.next_if(|at| *at <= now)
        {
            waiting.push_back(at);
        }
        let added = waiting.len() - before;
        self.longest.fetch_max(waiting.len(), Ordering::Relaxed);
        drop(waiting);
        self.count.add_permits(added);
    }

    async fn next(&self) -> Option<Instant> {
        self.count.acquire().await.ok()?.forget();
        locked(&self.waiting).pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_keep_their_distance_for_hours() {
        let mut schedule = Schedule::new(Arrivals::Constant, 3000.0, 0);
        assert_eq!(schedule.next(), Some(Duration::ZERO));
        let after_an_hour = schedule.nth(3000 * 3600 - 1).unwrap();
        assert!(
            after_an_hour.abs_diff(Duration::from_secs(3600)) < Duration::from_micros(1),
            "{after_an_hour:?}"
        );
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_scatter_like_poisson() {
        let times: Vec<f64> = Schedule::new(Arrivals::Poisson, 1000.0, 42)
            .take(100_000)
            .map(|at| at.as_secs_f64())
            .collect();
        assert!(times.is_sorted());
        let last = times.last().unwrap();
        assert!((98.0..102.0).contains(last), "100,000 arrivals took {last} s");
        // Of an exponential distribution, 36.8 % of the distances are longer than the mean.
        let long = times.windows(2).filter(|pair| pair[1] - pair[0] > 0.001).count();
        assert!((36_000..37_600).contains(&long), "{long} long distances");
    }

    #[test]
    fn the_same_seed_draws_the_same_arrivals() {
        let draw = |seed| {
            Schedule::new(Arrivals::Poisson, 50.0, seed)
                .take(100)
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[tokio::test]
    async fn an_open_loop_hands_out_every_due_message_however_late_it_is_asked() {
        let start = Instant::now();
        let until = start + Duration::from_millis(500);
        let due = Due::start(Schedule::new(Arrivals::Constant, 1000.0, 0), start, until);
        while locked(&due.waiting).len() < 300 {
            tokio::task::yield_now().await;
        }
        let source = Source::Open(due);
        for message in 0..300 {
            let at = source.next().await.expect("it is waiting");
            assert_eq!(at, start + Duration::from_millis(message));
        }
        assert!(source.backlog().1 >= 300);
    }

    #[tokio::test]
    async fn an_open_loop_ends_when_its_time_is_up() {
        let start = Instant::now();
        let schedule = Schedule::new(Arrivals::Constant, 1000.0, 0);
        let due = Due::start(schedule, start, start + Duration::from_millis(50));
        let mut count = 0;
        while due.next().await.is_some() {
            count += 1;
        }
        assert!((1..=50).contains(&count), "{count} messages");
    }
}

//! What is measured while load runs: latencies, counts by second, gaps between successes, failures.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::limits::{MAX_GAPS, TIMELINE_TAIL_SECONDS};
use super::locked;

/// Latencies are kept from a microsecond to ten minutes, to three digits.
const LONGEST_US: u64 = 600_000_000;
/// Writers share this many histograms, so that they seldom wait for each other.
const SHARDS: usize = 8;
/// A pause between two successes is worth a line from here on, unless messages are rarer anyway.
const GAP: Duration = Duration::from_millis(100);

/// A histogram many tasks write.
pub(super) struct Latencies(Vec<Mutex<Histogram<u64>>>);

impl Latencies {
    fn new() -> Self {
        let one = || Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are good");
        Self((0..SHARDS).map(|_| Mutex::new(one())).collect())
    }

    fn add(&self, lane: usize, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
        locked(&self.0[lane % SHARDS]).saturating_record(us);
    }

    pub(super) fn summary(&self) -> LatencySummary {
        let mut all = locked(&self.0[0]).clone();
        for shard in &self.0[1..] {
            all.add(&*locked(shard)).expect("all shards have the same bounds");
        }
        LatencySummary {
            count: all.len(),
            mean: all.mean(),
            p50: all.value_at_quantile(0.5),
            p99: all.value_at_quantile(0.99),
            p99_9: all.value_at_quantile(0.999),
            max: all.max(),
        }
    }
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct LatencySummary {
    pub count: u64,
    pub mean: f64,
    pub p50: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub max: u64,
}

/// A time without any successful send.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Gap {
    /// Milliseconds from the start of the measured window to the last success before.
    pub at_ms: i64,
    pub length_ms: f64,
}

/// One kind of failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct FailureCount {
    pub count: u64,
    /// What the first one said.
    pub example: String,
}

/// One second of the measured window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Second {
    pub second: u64,
    pub sent: u64,
    pub failed_tries: u64,
    pub received: u64,
    pub max_latency_ms: f64,
}

#[derive(Default)]
struct Cell {
    sent: AtomicU64,
    failed: AtomicU64,
    received: AtomicU64,
    max_us: AtomicU64,
}

/// Measures one load. Times before the window are warm-up: verified, not measured.
pub(super) struct Recorder {
    pub(super) start: Instant,
    pub(super) window: Duration,
    gap_ns: u64,
    sends: Latencies,
    acks: Latencies,
    journeys: Latencies,
    seconds: Vec<Cell>,
    sent: AtomicU64,
    received: AtomicU64,
    sent_ever: AtomicU64,
    received_ever: AtomicU64,
    retried: AtomicU64,
    last_success_ns: AtomicU64,
    longest_gap_ns: AtomicU64,
    gaps: Mutex<Vec<Gap>>,
    failures: Mutex<BTreeMap<String, FailureCount>>,
    first_receive: Mutex<Option<(Instant, Instant)>>,
}

impl Recorder {
    /// Measures from `start` on for `window`; `rate` in messages a second if it is known.
    pub(super) fn new(start: Instant, window: Duration, rate: Option<f64>) -> Self {
        let rare = rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(5.0 / rate));
        let cells = window.as_secs() + 1 + TIMELINE_TAIL_SECONDS;
        Self {
            start,
            window,
            gap_ns: nanos(GAP.max(rare)),
            sends: Latencies::new(),
            acks: Latencies::new(),
            journeys: Latencies::new(),
            seconds: (0..cells).map(|_| Cell::default()).collect(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent_ever: AtomicU64::new(0),
            received_ever: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            last_success_ns: AtomicU64::new(0),
            longest_gap_ns: AtomicU64::new(0),
            gaps: Mutex::new(Vec::new()),
            failures: Mutex::new(BTreeMap::new()),
            first_receive: Mutex::new(None),
        }
    }

    fn in_window(&self, at: Instant) -> bool {
        at >= self.start && at < self.start + self.window
    }

    fn cell(&self, at: Instant) -> Option<&Cell> {
        let second = at.checked_duration_since(self.start)?.as_secs();
        self.seconds.get(usize::try_from(second).ok()?)
    }

    /// A message due at `due` was acknowledged at `now`, after `tries`.
    pub(super) fn sent(&self, lane: usize, due: Instant, now: Instant, tries: u32) {
        let latency = now.saturating_duration_since(due);
        self.sent_ever.fetch_add(1, Ordering::Relaxed);
        if self.in_window(due) {
            self.sends.add(lane, latency);
            self.retried.fetch_add(u64::from(tries > 1), Ordering::Relaxed);
        }
        self.sent
            .fetch_add(u64::from(self.in_window(now)), Ordering::Relaxed);
        if let Some(cell) = self.cell(now) {
            cell.sent.fetch_add(1, Ordering::Relaxed);
            cell.max_us.fetch_max(
                u64::try_from(latency.as_micros()).unwrap_or(u64::MAX),
                Ordering::Relaxed,
            );
            self.success_at(now);
        }
    }

    fn success_at(&self, now: Instant) {
        let now_ns = nanos(now.saturating_duration_since(self.start)).max(1);
        let last_ns = self.last_success_ns.fetch_max(now_ns, Ordering::Relaxed);
        let gap_ns = now_ns.saturating_sub(last_ns);
        self.longest_gap_ns.fetch_max(gap_ns, Ordering::Relaxed);
        if gap_ns >= self.gap_ns {
            let mut gaps = locked(&self.gaps);
            if gaps.len() < MAX_GAPS {
                gaps.push(Gap {
                    at_ms: (last_ns / 1_000_000) as i64,
                    length_ms: gap_ns as f64 / 1e6,
                });
            }
        }
    }

    /// One try of a send did not succeed.
    pub(super) fn failed_try(&self, now: Instant, why: &str, message: &str) {
        if let Some(cell) = self.cell(now) {
            cell.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.failed(why, message);
    }

    /// Something else did not succeed: a receive, an acknowledgement.
    pub(super) fn failed(&self, why: &str, message: &str) {
        let mut failures = locked(&self.failures);
        match failures.get_mut(why) {
            Some(failure) => failure.count += 1,
            None => {
                failures.insert(
                    why.to_owned(),
                    FailureCount {
                        count: 1,
                        example: message.to_owned(),
                    },
                );
            }
        }
    }

    /// A message arrived at a consumer; `journey` is the time since it was due, if it is known.
    pub(super) fn received(&self, lane: usize, now: Instant, journey: Option<Duration>) {
        self.received_ever.fetch_add(1, Ordering::Relaxed);
        if self.in_window(now) {
            self.received.fetch_add(1, Ordering::Relaxed);
            if let Some(journey) = journey {
                self.journeys.add(lane, journey);
            }
        }
        if let Some(cell) = self.cell(now) {
            cell.received.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A batch arrived: the span between the first and the last one gives the true rate of a run
    /// that ran out of messages.
    pub(super) fn received_batch(&self, now: Instant) {
        if self.in_window(now) {
            let mut span = locked(&self.first_receive);
            *span = Some((span.map_or(now, |(first, _)| first), now));
        }
    }

    /// An acknowledgement by a consumer took so long.
    pub(super) fn acknowledged(&self, lane: usize, now: Instant, latency: Duration) {
        if self.in_window(now) {
            self.acks.add(lane, latency);
        }
    }

    pub(super) fn sends(&self) -> LatencySummary {
        self.sends.summary()
    }

    pub(super) fn acks(&self) -> LatencySummary {
        self.acks.summary()
    }

    pub(super) fn journeys(&self) -> LatencySummary {
        self.journeys.summary()
    }

    /// Successful sends that ended inside the window.
    pub(super) fn sent_in_window(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Messages received inside the window.
    pub(super) fn received_in_window(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Successful sends and received messages since the load began, warm-up included.
    pub(super) fn totals(&self) -> (u64, u64) {
        (
            self.sent_ever.load(Ordering::Relaxed),
            self.received_ever.load(Ordering::Relaxed),
        )
    }

    /// Messages due inside the window that needed more than one try.
    pub(super) fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    /// From the first to the last batch received in the window.
    pub(super) fn receiving_span(&self) -> Option<Duration> {
        locked(&self.first_receive).map(|(first, last)| last - first)
    }

    pub(super) fn failures(&self) -> BTreeMap<String, FailureCount> {
        locked(&self.failures).clone()
    }

    pub(super) fn longest_gap_ms(&self) -> f64 {
        self.longest_gap_ns.load(Ordering::Relaxed) as f64 / 1e6
    }

    pub(super) fn gaps(&self) -> Vec<Gap> {
        locked(&self.gaps).clone()
    }

    /// Second by second up to the last one in which something happened.
    pub(super) fn timeline(&self) -> Vec<Second> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut seconds: Vec<Second> = (0u64..)
            .zip(&self.seconds)
            .map(|(second, cell)| Second {
                second,
                sent: read(&cell.sent),
                failed_tries: read(&cell.failed),
                received: read(&cell.received),
                max_latency_ms: read(&cell.max_us) as f64 / 1e3,
            })
            .collect();
        let eventful = |second: &Second| second.sent + second.failed_tries + second.received > 0;
        let used = seconds.iter().rposition(eventful).map_or(0, |last| last + 1);
        seconds.truncate(used.max(usize::try_from(self.window.as_secs()).unwrap_or(usize::MAX)));
        seconds
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn latency_counts_from_when_the_message_was_due() {
        let start = Instant::now();
        let recorder = Recorder::new(start, 10_000 * MS, None);
        for lane in 0..100 {
            recorder.sent(lane, start + 10 * MS, start + 15 * MS, 1);
        }
        recorder.sent(0, start + 10 * MS, start + 2010 * MS, 3);
        let summary = recorder.sends();
        assert_eq!(summary.count, 101);
        assert!((4990..5010).contains(&summary.p50), "{summary:?}");
        assert!((1_990_000..2_010_000).contains(&summary.max), "{summary:?}");
        assert_eq!(recorder.retried(), 1);
    }

    #[test]
    fn warm_up_is_not_measured() {
        let start = Instant::now() + 1000 * MS;
        let recorder = Recorder::new(start, 1000 * MS, None);
        recorder.sent(0, start - 500 * MS, start - 499 * MS, 1);
        recorder.sent(0, start - 1 * MS, start + 1 * MS, 1);
        recorder.sent(0, start + 1500 * MS, start + 1501 * MS, 1);
        assert_eq!((recorder.sent_in_window(), recorder.sends().count), (1, 0));
        assert_eq!(recorder.totals(), (3, 0));
    }

    #[test]
    fn gaps_between_successes_are_kept_and_the_longest_is_known() {
        let start = Instant::now();
        let recorder = Recorder::new(start, 10_000 * MS, None);
        for at in [1, 50, 2050, 2060, 2200] {
            recorder.sent(0, start, start + at * MS, 1);
        }
        assert_eq!(recorder.longest_gap_ms(), 2000.0);
        let gaps = recorder.gaps();
        assert_eq!(gaps.iter().map(|gap| gap.at_ms).collect::<Vec<_>>(), [50, 2060]);
        assert_eq!(gaps[0].length_ms, 2000.0);
    }

    #[test]
    fn the_timeline_covers_the_window_and_what_came_after() {
        let start = Instant::now();
        let recorder = Recorder::new(start, 2000 * MS, None);
        recorder.sent(0, start, start + 500 * MS, 1);
        recorder.failed_try(start + 3100 * MS, "UNAVAILABLE", "gone");
        let timeline = recorder.timeline();
        assert_eq!(timeline.len(), 4);
        assert_eq!((timeline[0].sent, timeline[3].failed_tries), (1, 1));
        assert_eq!(timeline[0].max_latency_ms, 500.0);
        assert_eq!(
            recorder.failures()["UNAVAILABLE"],
            FailureCount {
                count: 1,
                example: "gone".to_owned()
            }
        );
    }
}

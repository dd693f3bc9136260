//! The connections of one port: a bounded number, and who gives way when it is reached.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// A connection that has been silent for less never gives way: it may be about to begin.
const MIN_SILENCE: Duration = Duration::from_secs(1);

/// When nobody can give way, it is not asked again for so long: asking looks at every connection.
const ASK_PAUSE: Duration = Duration::from_millis(100);

/// One part in so many gives way at a time, for the same reason.
const GIVE_WAY_PART: usize = 32;

/// How long a new connection waits for those that give way.
const GIVE_WAY_TIMEOUT: Duration = Duration::from_millis(100);

/// One connection: how many requests are open on it, and when the last one ended.
#[derive(Debug)]
pub(crate) struct Seat {
    since: Instant,
    open: AtomicU64,
    /// Milliseconds after `since`.
    last_end_ms: AtomicU64,
    leave: CancellationToken,
}

impl Seat {
    fn new() -> Seat {
        Seat {
            since: Instant::now(),
            open: AtomicU64::new(0),
            last_end_ms: AtomicU64::new(0),
            leave: CancellationToken::new(),
        }
    }

    /// A request begins.
    pub(crate) fn begin(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// A request has ended.
    pub(crate) fn end(&self) {
        let age = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_end_ms.store(age, Relaxed);
        self.open.fetch_sub(1, Relaxed);
    }

    /// Since when there has been no request; `None` while there is one.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (self.open.load(Relaxed) == 0)
            .then(|| self.since + Duration::from_millis(self.last_end_ms.load(Relaxed)))
    }
}

#[derive(Debug)]
struct Taken {
    seats: BTreeMap<u64, Arc<Seat>>,
    next: u64,
    ask_from: Instant,
}

/// All connections of one port.
#[derive(Debug)]
pub(super) struct Seats {
    most: u32,
    places: Arc<Semaphore>,
    taken: Mutex<Taken>,
}

/// A connection's place, until it is dropped.
pub(super) struct Place {
    pub(super) seat: Arc<Seat>,
    number: u64,
    seats: Arc<Seats>,
    _permit: OwnedSemaphorePermit,
}

impl Seats {
    pub(super) fn new(most: u32) -> Arc<Seats> {
        let taken = Taken {
            seats: BTreeMap::new(),
            next: 0,
            ask_from: Instant::now(),
        };
        Arc::new(Seats {
            most,
            places: Arc::new(Semaphore::new(most as usize)),
            taken: Mutex::new(taken),
        })
    }

    /// A place for a new connection; `None` when all are taken by connections that have requests or are new.
    pub(super) async fn take(self: &Arc<Seats>) -> Option<Place> {
        let permit = match self.places.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) if !self.ask_the_silent() => return None,
            Err(_) => time::timeout(GIVE_WAY_TIMEOUT, self.places.clone().acquire_owned())
                .await
                .ok()?
                .ok()?,
        };
        let seat = Arc::new(Seat::new());
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let number = taken.next;
        taken.next += 1;
        taken.seats.insert(number, seat.clone());
        Some(Place {
            seat,
            number,
            seats: self.clone(),
            _permit: permit,
        })
    }

    /// Those that have been silent longest give way; `false` if nobody does.
    fn ask_the_silent(&self) -> bool {
        let now = Instant::now();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Taken { seats, ask_from, .. } = &mut *taken;
        if now < *ask_from {
            return false;
        }
        let mut silent: Vec<(Instant, &Arc<Seat>)> = seats
            .values()
            .filter_map(|seat| Some((seat.idle_since()?, seat)))
            .filter(|(since, _)| now.saturating_duration_since(*since) >= MIN_SILENCE)
            .collect();
        let leaving = (self.most as usize / GIVE_WAY_PART).max(1).min(silent.len());
        if leaving == 0 {
            *ask_from = now + ASK_PAUSE;
            return false;
        }
        silent.select_nth_unstable_by_key(leaving - 1, |(since, _)| *since);
        for (_, seat) in &silent[..leaving] {
            seat.leave.cancel();
        }
        debug!(leaving, most = self.most, "silent connections give way");
        true
    }

    /// Waits until no connection is left; how many there were at the end of the time.
    pub(super) async fn drain(&self, limit: Duration) -> usize {
        let _ = time::timeout(limit, self.places.acquire_many(self.most)).await;
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .seats
            .len()
    }
}

impl Place {
    /// Serves the connection until it ends or gives way.
    pub(super) async fn hold(self, connection: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = self.seat.leave.cancelled() => {}
            () = connection => {}
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.seats.remove(&self.number);
    }
}

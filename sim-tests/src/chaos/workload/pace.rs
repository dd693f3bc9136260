//! How much producers send when they send as much as they can: not so much that retention, which each node does by the size
//! of its log, comes to messages whose consumers may still be at work on them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// What is sent at once, and in a second from then on, bytes. Within three minutes, which is longer than a message has been
/// seen to wait, that is less than two thirds of the log that nodes keep.
const BURST: u64 = 192 << 20;
const A_SECOND: u64 = 768 << 10;

/// Of all producers together. Clones are the same.
#[derive(Clone)]
pub(in crate::chaos) struct Pace(Arc<Mutex<Left>>);

struct Left {
    bytes: u64,
    at: Instant,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace(Arc::new(Mutex::new(Left {
            bytes: BURST,
            at: Instant::now(),
        })))
    }
}

impl Pace {
    /// Whether so many bytes more may be sent now.
    pub(super) fn takes(&self, bytes: u64) -> bool {
        self.takes_at(Instant::now(), bytes)
    }

    fn takes_at(&self, now: Instant, bytes: u64) -> bool {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let more = now.saturating_duration_since(left.at).as_millis() as u64 * A_SECOND / 1_000;
        if more > 0 {
            left.bytes = BURST.min(left.bytes + more);
            left.at += Duration::from_millis(more * 1_000 / A_SECOND);
        }
        let enough = left.bytes >= bytes;
        if enough {
            left.bytes -= bytes;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_burst_there_is_so_much_a_second() {
        let (pace, began) = (Pace::default(), Instant::now());
        let takes = |second, bytes| pace.takes_at(began + Duration::from_secs(second), bytes);
        assert!(takes(0, BURST) && !takes(0, A_SECOND));
        assert!(takes(2, 2 * A_SECOND - 2) && !takes(2, A_SECOND));
        assert!(takes(100_000, BURST) && !takes(100_000, 1));
    }
}

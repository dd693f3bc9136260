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
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let more = left.at.elapsed().as_millis() as u64 * A_SECOND / 1_000;
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

    #[tokio::test(start_paused = true)]
    async fn after_a_burst_there_is_so_much_a_second() {
        let pace = Pace::default();
        assert!(pace.takes(BURST) && !pace.takes(1));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(pace.takes(2 * A_SECOND - 1) && !pace.takes(2));
        tokio::time::advance(Duration::from_secs(100_000)).await;
        assert!(pace.takes(BURST) && !pace.takes(1));
    }
}

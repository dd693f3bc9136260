//! What clients are in the habit of.

use std::time::Duration;

use broker::limits::{MAX_RECEIVE_BATCH, MIN_INVISIBLE, RENEW_AT_MOST};
use madsim::rand::{GlobalRng, Rng, seq::SliceRandom};

use super::Plan;
use crate::oracle::late::LONGEST_LEASE;

/// Where a consumer rests, there are faults for so long, seconds: it rests when they are over.
const FAULTS_BEFORE_REST: std::ops::Range<u64> = 5..15;

/// What consumers do with messages, as shares of all deliveries (the rest is acknowledged at once), and how they ask for them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Habits {
    /// Never acknowledged: the lease ends by itself.
    pub forget: f64,
    /// Hidden for another time instead.
    pub hide: f64,
    /// Sent to the dead-letter topic.
    pub bury: f64,
    /// Acknowledged as well, without waiting for the answer.
    pub twice: bool,
    /// Acknowledged only when the lease is over.
    pub late: f64,
    /// Messages that a receive asks for, at most, and most of the time.
    pub batch: i32,
    /// The longest lease that a consumer chooses.
    pub lease: Duration,
    /// Some clients know one node only.
    pub one_node: bool,
    /// One of two push consumers rests with what it has for minutes, and says that it lives.
    pub rest: bool,
}

impl Habits {
    /// None, and the usual requests.
    pub const NONE: Habits = Habits {
        forget: 0.0,
        hide: 0.0,
        bury: 0.0,
        twice: false,
        late: 0.0,
        batch: 8,
        lease: MIN_INVISIBLE,
        one_node: false,
        rest: false,
    };

    /// Draws those of a world, with push consumers or without.
    pub(super) fn draw(rng: &mut GlobalRng, push: bool) -> Habits {
        let batches = [4, 8, 8, MAX_RECEIVE_BATCH as i32];
        Habits {
            forget: share(rng, 0.1),
            hide: share(rng, 0.1),
            bury: share(rng, 0.05),
            twice: false,
            late: share(rng, 0.05),
            batch: *batches.choose(rng).expect("there are some"),
            lease: match rng.gen_bool(0.5) {
                true => Duration::from_millis(
                    rng.gen_range(MIN_INVISIBLE.as_millis() as u64..=LONGEST_LEASE.as_millis() as u64),
                ),
                false => MIN_INVISIBLE,
            },
            one_node: rng.gen_bool(0.3),
            rest: push && rng.gen_bool(0.4),
        }
    }

    /// Makes a world one in which they show.
    pub(super) fn prepare(self, plan: &mut Plan) {
        if !self.rest {
            return;
        }
        // Somebody else would get what it rests with, if that were not renewed for as long.
        (plan.consumers, plan.renew_at_most) = (2, RENEW_AT_MOST);
        let before = FAULTS_BEFORE_REST;
        plan.faults_for = plan
            .faults_for
            .clamp(Duration::from_secs(before.start), Duration::from_secs(before.end));
        // There are messages when the faults are over.
        plan.pause_ms = 1..400;
        plan.messages = plan.messages.max(150);
    }
}

/// None at all, in half of the worlds.
pub(super) fn share(rng: &mut GlobalRng, most: f64) -> f64 {
    if rng.gen_bool(0.5) {
        rng.gen_range(0.0..most)
    } else {
        0.0
    }
}

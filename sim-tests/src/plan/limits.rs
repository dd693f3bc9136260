//! What nodes are told to keep, and how much of anything they take on: drawn small, so that a short run reaches it.

use std::{fmt, time::Duration};

use broker::limits::Bounds;
use madsim::rand::{Rng, seq::SliceRandom};
use raft_store::limits::{MAX_APPEND_ENTRIES, SNAPSHOT_PIECE_BYTES};

/// Nothing is forgotten before a run is over.
const LONG: Duration = Duration::from_secs(24 * 3_600);
/// Nor for want of room.
const PLENTY: u64 = 1 << 40;

/// Of a log whose segments have to go within a run, bytes.
const SMALL_SEGMENT: u64 = 1 << 15;

/// Of which even a small state has several, bytes.
const SMALL_PIECE: usize = 4 * 1024;

/// Share of worlds in which one of the others is small.
const SMALL: f64 = 0.15;

/// The limits of all nodes of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages older than this may be forgotten.
    pub retention: Duration,
    /// The oldest messages are forgotten when a node's log is larger than this, bytes.
    pub retention_bytes: u64,
    /// Recent records that are kept in memory, bytes.
    pub cache_bytes: usize,
    /// The state is flushed at least this often while anything is written.
    pub flush_every: Duration,
    /// A part of a snapshot, bytes.
    pub snapshot_piece_bytes: usize,
    /// Entries of one append message.
    pub append_entries: u64,
    /// What a node takes on.
    pub bounds: Bounds,
}

impl Limits {
    /// Those of a world that keeps everything.
    #[must_use]
    pub fn large() -> Limits {
        Limits {
            retention: LONG,
            retention_bytes: PLENTY,
            cache_bytes: 64 * 1024,
            flush_every: Duration::from_secs(30),
            snapshot_piece_bytes: SNAPSHOT_PIECE_BYTES,
            append_entries: MAX_APPEND_ENTRIES,
            bounds: Bounds::default(),
        }
    }

    /// Draws some. Half of the worlds keep everything; the others have small segments, of which there are more. Where snapshots are
    /// wanted none keeps everything, because nobody needs one who can have all of the log, and more send them in many parts.
    pub fn draw(rng: &mut impl Rng, segment_bytes: &mut u64, snapshots: bool) -> Limits {
        let mut limits = Limits::large();
        limits.cache_bytes = *[4 * 1024, 16 * 1024, 64 * 1024, 64 * 1024, 1024 * 1024]
            .choose(rng)
            .expect("there are some");
        limits.flush_every = Duration::from_secs(*[5, 30].choose(rng).expect("there are some"));
        limits.draw_bounds(rng);
        let kind = match snapshots {
            true => rng.gen_range(4..8),
            false => rng.gen_range(0..8),
        };
        if snapshots && rng.gen_bool(0.7) {
            limits.snapshot_piece_bytes = *[SMALL_PIECE / 4, SMALL_PIECE].choose(rng).expect("two");
        }
        if kind >= 4 {
            *segment_bytes = SMALL_SEGMENT;
        }
        // As few segments as the configuration allows, or some more.
        let bytes = *segment_bytes * rng.gen_range(4..=8);
        let retention = Duration::from_secs(match rng.gen_bool(0.4) {
            true => rng.gen_range(1..=5),
            false => rng.gen_range(6..=45),
        });
        if matches!(kind, 4..=6) {
            limits.retention_bytes = bytes;
        }
        if matches!(kind, 6..=7) {
            limits.retention = retention;
        }
        limits
    }

    /// Each is small in a part of the worlds.
    fn draw_bounds(&mut self, rng: &mut impl Rng) {
        let Limits {
            snapshot_piece_bytes,
            append_entries,
            bounds,
            ..
        } = self;
        let mut is_small = || rng.gen_bool(SMALL);
        if is_small() {
            *snapshot_piece_bytes = SMALL_PIECE;
        }
        if is_small() {
            *append_entries = 3;
        }
        if is_small() {
            bounds.in_flight_per_queue = 5;
        }
        if is_small() {
            bounds.queued_commands = 6;
        }
        if is_small() {
            bounds.queued_send_bytes = 48 * 1024;
        }
        if is_small() {
            bounds.waiting_receives = 3;
        }
        // More often than the others: of what a client asks for together a part may be in the log then, and what waits for its
        // entry may be older than that.
        if is_small() || is_small() {
            bounds.entry_commands = 1;
        }
        if is_small() {
            (bounds.tick, bounds.trim, bounds.copy_commands) = (2, 3, 2);
        }
    }

    /// More often than elsewhere what is asked for together is not in one entry, and there is no room for all that is asked for.
    pub(super) fn crowd(&mut self, rng: &mut impl Rng) {
        if rng.gen_bool(0.6) {
            self.bounds.entry_commands = 1;
        }
        if rng.gen_bool(0.4) {
            self.bounds.queued_commands = 6;
        }
    }

    /// Whether anything can be forgotten.
    #[must_use]
    pub fn forget(&self) -> bool {
        self.retention < LONG || self.retention_bytes < PLENTY
    }

    /// Whether anything can be forgotten for want of room.
    #[must_use]
    pub fn forget_for_room(&self) -> bool {
        self.retention_bytes < PLENTY
    }

    /// Keeps as little as the configuration allows, in segments of the size that this returns.
    pub(super) fn forget_soon(&mut self) -> u64 {
        self.retention_bytes = 5 * SMALL_SEGMENT;
        self.snapshot_piece_bytes = SMALL_PIECE / 4;
        SMALL_SEGMENT
    }

    /// Keeps everything from now on.
    pub fn keep(&mut self) {
        (self.retention, self.retention_bytes) = (LONG, PLENTY);
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limits {
            retention,
            retention_bytes,
            cache_bytes,
            flush_every,
            snapshot_piece_bytes,
            append_entries,
            bounds,
        } = self;
        match self.forget() {
            true => write!(out, "retention {retention:?} {retention_bytes}")?,
            false => write!(out, "retention none")?,
        }
        write!(
            out,
            " cache {cache_bytes} flush each {flush_every:?} pieces {snapshot_piece_bytes} appends {append_entries} {bounds:?}"
        )
    }
}

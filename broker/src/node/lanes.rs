//! What waits for one shard's next entry: a lane for each purpose, with room of its own.
//!
//! Whoever sends more than the shard takes fills the lane of sends and is refused there; acknowledgements, deliveries and
//! the shard's own time find their lanes as they left them, and their share of every entry.

use std::collections::VecDeque;

use flotilla_proto::record::{Command, command::Command as Kind, configure::What};

use crate::limits::{
    Bounds, MAX_ENTRY_BYTES, MAX_QUEUED_COMMANDS, MAX_QUEUED_SMALL_BYTES, MAX_QUEUED_TIME_COMMANDS,
    MAX_SEND_WAIT_MS, TURN_BYTES, TURN_COMMANDS,
};

/// What a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Time passes, leases are renewed. The keeper proposes one after the other and each node says one thing at a time, so
    /// its room is never used up.
    Time,
    /// A client ends a lease.
    Settle,
    /// A client begins one.
    Deliver,
    /// The node's own work on what is stored.
    Upkeep,
    /// A client stores a message.
    Send,
}

const LANES: [Lane; 5] = [Lane::Time, Lane::Settle, Lane::Deliver, Lane::Upkeep, Lane::Send];

impl Lane {
    /// The lane of a command.
    pub(super) fn of(command: &Command) -> Self {
        match &command.command {
            Some(Kind::Tick(_) | Kind::Fire(_) | Kind::Renew(_) | Kind::Written(_) | Kind::Depart(_)) => {
                Lane::Time
            }
            Some(Kind::CheckBack(_) | Kind::GiveUp(_)) => Lane::Time,
            Some(Kind::Ack(_) | Kind::Release(_) | Kind::Recall(_) | Kind::Commit(_) | Kind::Rollback(_)) => {
                Lane::Settle
            }
            // Subscriptions come with the first delivery.
            Some(Kind::Deliver(_)) => Lane::Deliver,
            Some(Kind::Configure(configure)) if matches!(configure.what, Some(What::Subscribe(_))) => {
                Lane::Deliver
            }
            Some(
                Kind::Configure(_)
                | Kind::Trim(_)
                | Kind::CopyForward(_)
                | Kind::Seek(_)
                | Kind::Retime(_)
                | Kind::Redrive(_)
                | Kind::Unpark(_),
            )
            | None => Lane::Upkeep,
            Some(Kind::Append(_)) => Lane::Send,
        }
    }

    /// Commands and bytes that may wait.
    fn room(self, bounds: &Bounds) -> (usize, usize) {
        match self {
            Lane::Time => (MAX_QUEUED_TIME_COMMANDS, MAX_QUEUED_SMALL_BYTES),
            Lane::Settle | Lane::Deliver => (bounds.queued_commands, MAX_QUEUED_SMALL_BYTES),
            // A message that is copied forward may be as large as any.
            Lane::Upkeep => (MAX_QUEUED_COMMANDS, 2 * MAX_QUEUED_SMALL_BYTES),
            Lane::Send => (bounds.queued_commands, bounds.queued_send_bytes),
        }
    }
}

/// What an item takes of a lane and of an entry.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weight {
    pub(super) commands: usize,
    pub(super) bytes: usize,
}

/// One lane's queue.
struct Queue<T> {
    items: VecDeque<Waiting<T>>,
    sum: Weight,
}

struct Waiting<T> {
    item: T,
    weight: Weight,
    since_ms: u64,
}

/// The lanes of one shard.
pub(super) struct Lanes<T> {
    lanes: [Queue<T>; LANES.len()],
    /// The lane that comes first after that of time.
    turn: usize,
    bounds: Bounds,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self::new(Bounds::default())
    }
}

impl<T> Lanes<T> {
    /// Empty ones.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            lanes: LANES.map(|_| Queue {
                items: VecDeque::new(),
                sum: Weight::default(),
            }),
            turn: 1,
        }
    }

    /// Puts an item at the end of its lane, or gives it back if there is no room, or if sends wait for too long already. An
    /// empty lane has room for any item: what no lane would ever take could be asked for again without end.
    pub(super) fn push(&mut self, lane: Lane, item: T, weight: Weight, now_ms: u64) -> Result<(), T> {
        let (most, most_bytes) = lane.room(&self.bounds);
        let queue = &mut self.lanes[lane as usize];
        let first_ms = queue.items.front().map_or(now_ms, |first| first.since_ms);
        let too_late = lane == Lane::Send && now_ms.saturating_sub(first_ms) > MAX_SEND_WAIT_MS;
        let sum = Weight {
            commands: queue.sum.commands + weight.commands,
            bytes: queue.sum.bytes + weight.bytes,
        };
        let is_over = sum.commands > most || sum.bytes > most_bytes;
        if too_late || (is_over && !queue.items.is_empty()) {
            return Err(item);
        }
        queue.sum = sum;
        queue.items.push_back(Waiting {
            item,
            weight,
            since_ms: now_ms,
        });
        Ok(())
    }

    /// Bytes that wait in all lanes.
    pub(super) fn bytes(&self) -> usize {
        self.lanes.iter().map(|queue| queue.sum.bytes).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|queue| queue.items.is_empty())
    }

    /// True if something else than sends waits.
    pub(super) fn has_small(&self) -> bool {
        let sends = Lane::Send as usize;
        self.lanes[..sends].iter().any(|queue| !queue.items.is_empty())
    }

    /// Moves what fits from the lanes to a batch, in turns of a few from each, so that none waits for another to be empty;
    /// the lanes' own order stays. False if the batch is full.
    pub(super) fn fill(&mut self, batch: &mut Batch<T>, with_sends: bool) -> bool {
        if !self.turn_of(0, batch) {
            return false;
        }
        loop {
            let mut more = false;
            for step in 0..LANES.len() - 1 {
                let lane = 1 + (self.turn - 1 + step) % (LANES.len() - 1);
                if !with_sends && lane == Lane::Send as usize {
                    continue;
                }
                if !self.turn_of(lane, batch) {
                    // The next batch begins with what did not fit into this one.
                    self.turn = lane;
                    return false;
                }
                more |= !self.lanes[lane].items.is_empty();
            }
            if !more {
                return true;
            }
        }
    }

    fn turn_of(&mut self, lane: usize, batch: &mut Batch<T>) -> bool {
        let queue = &mut self.lanes[lane];
        let (mut commands, mut bytes) = (0, 0);
        while let Some(next) = queue.items.front()
            && commands < TURN_COMMANDS
            && bytes < TURN_BYTES
        {
            if !batch.has_room(next.weight, self.bounds.entry_commands) {
                return false;
            }
            let next = queue.items.pop_front().expect("just seen");
            let weight = next.weight;
            queue.sum.commands -= weight.commands;
            queue.sum.bytes -= weight.bytes;
            batch.commands += weight.commands;
            batch.bytes += weight.bytes;
            batch.items.push(next.item);
            (commands, bytes) = (commands + weight.commands, bytes + weight.bytes);
        }
        true
    }
}

/// What is to become one entry.
pub(super) struct Batch<T> {
    pub(super) items: Vec<T>,
    pub(super) commands: usize,
    pub(super) bytes: usize,
}

impl<T> Batch<T> {
    pub(super) fn new() -> Self {
        Self {
            items: Vec::new(),
            commands: 0,
            bytes: 0,
        }
    }

    /// A single item may be larger than all others together.
    fn has_room(&self, weight: Weight, most: usize) -> bool {
        let fits = self.commands + weight.commands <= most && self.bytes + weight.bytes <= MAX_ENTRY_BYTES;
        self.items.is_empty() || fits
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::record::{Ack, Append, Tick};

    use super::*;
    use crate::limits::MAX_QUEUED_SEND_BYTES;

    fn one(bytes: usize) -> Weight {
        Weight { commands: 1, bytes }
    }

    fn fill(lanes: &mut Lanes<Lane>) -> Vec<Lane> {
        let mut batch = Batch::new();
        lanes.fill(&mut batch, true);
        batch.items
    }

    fn flood(lanes: &mut Lanes<Lane>, lane: Lane, bytes: usize) -> usize {
        (0..)
            .take_while(|_| lanes.push(lane, lane, one(bytes), 0).is_ok())
            .count()
    }

    #[test]
    fn a_flood_of_sends_leaves_the_other_lanes_their_room() {
        let mut lanes = Lanes::default();
        assert_eq!(flood(&mut lanes, Lane::Send, 10), MAX_QUEUED_COMMANDS);
        for lane in [Lane::Time, Lane::Settle, Lane::Deliver, Lane::Upkeep] {
            assert!(lanes.push(lane, lane, one(10), 0).is_ok(), "{lane:?}");
        }
        assert_eq!(flood(&mut lanes, Lane::Settle, 10), MAX_QUEUED_COMMANDS - 1);
        assert!(lanes.push(Lane::Time, Lane::Time, one(10), 0).is_ok());
    }

    #[test]
    fn a_lane_is_bounded_by_bytes_too() {
        let mut lanes = Lanes::default();
        let large = 4 << 20;
        assert_eq!(
            flood(&mut lanes, Lane::Send, large),
            MAX_QUEUED_SEND_BYTES / large
        );
        assert_eq!(lanes.bytes(), MAX_QUEUED_SEND_BYTES / large * large);
    }

    #[test]
    fn an_item_of_several_commands_counts_as_so_many_and_is_never_divided() {
        let bounds = Bounds {
            queued_commands: 6,
            entry_commands: 3,
            ..Bounds::default()
        };
        let several = |commands| Weight { commands, bytes: 10 };
        let mut lanes = Lanes::new(bounds);
        let push = |lanes: &mut Lanes<usize>, commands| {
            lanes.push(Lane::Send, commands, several(commands), 0).is_ok()
        };
        assert!(push(&mut lanes, 2) && push(&mut lanes, 4) && !push(&mut lanes, 1));
        let entry = |lanes: &mut Lanes<usize>| {
            let mut batch = Batch::new();
            lanes.fill(&mut batch, true);
            (batch.items, batch.commands)
        };
        assert_eq!(entry(&mut lanes), (vec![2], 2));
        assert_eq!(entry(&mut lanes), (vec![4], 4));
        // Else it could never be stored.
        assert!(push(&mut lanes, 7) && !push(&mut lanes, 1));
        assert_eq!(entry(&mut lanes), (vec![7], 7));
    }

    #[test]
    fn every_lane_has_its_share_of_the_next_entry_and_time_goes_first() {
        let mut lanes = Lanes::default();
        flood(&mut lanes, Lane::Send, 1000);
        flood(&mut lanes, Lane::Deliver, 100);
        for _ in 0..TURN_COMMANDS {
            lanes.push(Lane::Settle, Lane::Settle, one(100), 0).unwrap();
        }
        lanes.push(Lane::Time, Lane::Time, one(10), 0).unwrap();
        let entry = fill(&mut lanes);
        let count = |lane| entry.iter().filter(|&&item| item == lane).count();
        assert_eq!(entry[0], Lane::Time);
        assert_eq!(count(Lane::Settle), TURN_COMMANDS);
        assert!(count(Lane::Deliver) >= TURN_COMMANDS && count(Lane::Send) >= TURN_COMMANDS);
    }

    #[test]
    fn what_did_not_fit_begins_the_next_entry() {
        let mut lanes = Lanes::default();
        lanes.push(Lane::Settle, Lane::Settle, one(10), 0).unwrap();
        lanes
            .push(Lane::Send, Lane::Send, one(MAX_ENTRY_BYTES), 0)
            .unwrap();
        assert_eq!(fill(&mut lanes), [Lane::Settle]);
        flood(&mut lanes, Lane::Settle, 10);
        assert_eq!(fill(&mut lanes), [Lane::Send]);
        assert_eq!(fill(&mut lanes)[0], Lane::Settle);
    }

    #[test]
    fn a_lane_keeps_its_order() {
        let mut lanes = Lanes::default();
        for number in 0..3 * TURN_COMMANDS {
            lanes.push(Lane::Send, number, one(1), 0).unwrap();
            lanes.push(Lane::Settle, number, one(1), 0).unwrap();
        }
        let mut batch = Batch::new();
        assert!(lanes.fill(&mut batch, true));
        assert_eq!(batch.items.len(), 6 * TURN_COMMANDS);
        for lane in 0..2 {
            let turns = batch.items.chunks(TURN_COMMANDS).skip(lane).step_by(2);
            assert!(turns.flatten().copied().eq(0..3 * TURN_COMMANDS));
        }
    }

    #[test]
    fn sends_can_be_left_for_a_later_entry() {
        let mut lanes = Lanes::default();
        lanes.push(Lane::Send, Lane::Send, one(1), 0).unwrap();
        assert!(!lanes.has_small());
        lanes.push(Lane::Settle, Lane::Settle, one(1), 0).unwrap();
        assert!(lanes.has_small());
        let mut batch = Batch::new();
        assert!(lanes.fill(&mut batch, false));
        assert_eq!(batch.items, [Lane::Settle]);
        assert!(!lanes.is_empty());
    }

    #[test]
    fn sends_are_refused_while_others_wait_for_too_long_and_nothing_else_is() {
        let mut lanes = Lanes::default();
        lanes.push(Lane::Send, Lane::Send, one(1), 0).unwrap();
        assert!(
            lanes
                .push(Lane::Send, Lane::Send, one(1), MAX_SEND_WAIT_MS)
                .is_ok()
        );
        assert!(
            lanes
                .push(Lane::Send, Lane::Send, one(1), MAX_SEND_WAIT_MS + 1)
                .is_err()
        );
        lanes.push(Lane::Settle, Lane::Settle, one(1), 0).unwrap();
        assert!(
            lanes
                .push(Lane::Settle, Lane::Settle, one(1), MAX_SEND_WAIT_MS + 1)
                .is_ok()
        );
        fill(&mut lanes);
        assert!(
            lanes
                .push(Lane::Send, Lane::Send, one(1), MAX_SEND_WAIT_MS + 1)
                .is_ok()
        );
    }

    #[test]
    fn commands_know_their_lane() {
        let of = |kind| Lane::of(&Command { command: Some(kind) });
        assert_eq!(of(Kind::Append(Append::default())), Lane::Send);
        assert_eq!(of(Kind::Ack(Ack::default())), Lane::Settle);
        assert_eq!(of(Kind::Tick(Tick::default())), Lane::Time);
    }
}

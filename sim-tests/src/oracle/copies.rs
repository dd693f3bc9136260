//! Copies of what must outlive its segment write no more than they are worth: they are paid for by what clients write, and end
//! when nobody writes. And no message is copied again and again while the log keeps all those copies.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use flotilla_proto::record::command::Command;

/// What is copied is compared with what else is written for so long at a time.
const WINDOW: Duration = Duration::from_secs(20);
/// Bytes of copies allowed for each byte of everything else, and of what must stay, most of which may end within a window: for
/// room, the dearest, a leader writes seven bytes to get one back.
const FACTOR: u64 = 7;
/// And this many segments, which is two of the logs that are drawn small: what became due before is copied now.
const SEGMENTS: u64 = 16;

/// Bytes of entries that were seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct Copies {
    since: Duration,
    copied: u64,
    others: u64,
    /// The most that only copies moved.
    must_stay: u64,
    told: bool,
}

impl Copies {
    /// An entry of so many bytes, with these commands in it.
    pub fn add(&mut self, bytes: usize, commands: &[Option<Command>]) {
        let copied = commands.iter().flatten().map(|command| match command {
            Command::CopyForward(copy) => copy.message.len() as u64,
            _ => 0,
        });
        let copied = copied.sum();
        self.copied += copied;
        self.others += (bytes as u64).saturating_sub(copied);
    }

    /// Says once when it is more than is right.
    /// `must_stay` are the bytes that only copies move now.
    pub fn judge(&mut self, at: Duration, segment_bytes: u64, must_stay: u64) -> Option<String> {
        self.must_stay = must_stay.max(self.must_stay);
        let Copies {
            since,
            copied,
            others,
            must_stay: most,
            told,
        } = *self;
        if at >= since + WINDOW {
            *self = Copies {
                since: at,
                told,
                must_stay,
                ..Copies::default()
            };
        }
        if told || copied <= FACTOR * (others + most) + SEGMENTS * segment_bytes {
            return None;
        }
        self.told = true;
        Some(format!(
            "copies: {copied} bytes were copied forward from {since:?} to {at:?}, beside {others} bytes of all else, \
             where {most} must stay"
        ))
    }
}

/// A message whose copies are counted: its shard, queue and offset.
type Place = (u32, u64, u64);

/// How many messages' copies are remembered.
const MESSAGES: usize = 10_000;

/// Which entries hold the last copies of each message. Every node's log may have it copied once per turnover; a copy is in
/// two of them at most: the one under way when it was written, and the next.
#[derive(Debug, Default)]
pub struct Again {
    copies: BTreeMap<Place, VecDeque<u64>>,
    /// Those that run.
    nodes: Vec<u32>,
    told: bool,
}

impl Again {
    /// Which nodes run now. One that begins anew does not remember what was copied.
    pub fn run(&mut self, nodes: Vec<u32>) {
        if nodes != self.nodes {
            self.copies.clear();
            self.nodes = nodes;
        }
    }

    /// A copy was written as this entry. Says once when all logs have more copies than they may; `is_kept` tells whether each
    /// of them has this entry of that shard still.
    pub fn add(
        &mut self,
        place: Place,
        index: u64,
        is_kept: impl FnOnce(u32, u64) -> bool,
    ) -> Option<String> {
        if self.copies.len() >= MESSAGES {
            self.copies.clear();
        }
        let copies = self.copies.entry(place).or_default();
        copies.push_back(index);
        if copies.len() <= 1 + 2 * self.nodes.len() {
            return None;
        }
        let first = copies.pop_front().expect("there are some");
        if self.told || !is_kept(place.0, first) {
            return None;
        }
        self.told = true;
        let (shard, queue, offset) = place;
        Some(format!(
            "copies: message {offset} of queue {queue:x} in shard {shard} was copied at {first} and {copies:?}, and no log has \
             given back the first"
        ))
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::record::{Append, CopyForward};

    use super::*;

    fn copied(copies: &mut Copies, times: usize) {
        let copy = CopyForward {
            message: vec![b'.'; 900].into(),
            ..Default::default()
        };
        for _ in 0..times {
            copies.add(950, &[Some(Command::CopyForward(copy.clone())), None]);
        }
    }

    #[test]
    fn copies_may_write_some_times_what_all_else_writes_and_two_logs() {
        let mut copies = Copies::default();
        copies.add(100, &[Some(Command::Append(Append::default()))]);
        copied(&mut copies, 6);
        // 5,400 beside 400 and 100, and 16 segments.
        assert_eq!(copies.judge(Duration::from_secs(1), 119, 100), None);
        assert!(copies.judge(Duration::from_secs(1), 118, 100).is_some());
        assert_eq!(
            copies.judge(Duration::from_secs(1), 118, 100),
            None,
            "it was said"
        );
    }

    #[test]
    fn each_window_is_judged_by_itself() {
        let mut copies = Copies::default();
        copies.add(10_000, &[Some(Command::Append(Append::default()))]);
        copied(&mut copies, 9);
        assert_eq!(copies.judge(WINDOW, 0, 0), None);
        copied(&mut copies, 9);
        assert!(copies.judge(WINDOW * 2, 0, 0).is_some());
    }

    #[test]
    fn a_message_is_copied_twice_per_log_that_keeps_its_copies() {
        let mut again = Again::default();
        let place = (1, 2, 3);
        again.run(vec![1, 2, 3]);
        for index in 0..7 {
            assert_eq!(again.add(place, index, |_, _| true), None);
        }
        assert_eq!(again.add((1, 2, 4), 7, |_, _| true), None, "another message");
        assert_eq!(again.add(place, 8, |_, first| first > 0), None, "0 is gone");
        again.run(vec![1, 2]);
        again.run(vec![1, 2, 3]);
        for index in 9..16 {
            assert_eq!(again.add(place, index, |_, _| true), None, "a node began anew");
        }
        assert!(
            again
                .add(place, 16, |shard, first| (shard, first) == (1, 9))
                .is_some()
        );
        assert_eq!(again.add(place, 17, |_, _| true), None, "it was said");
    }
}

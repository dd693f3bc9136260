//! Copies of what must outlive its segment write no more than they are worth: they are paid for by what clients write, and end
//! when nobody writes.

use std::time::Duration;

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
}

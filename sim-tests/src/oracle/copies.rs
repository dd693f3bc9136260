//! Copies of what must outlive its segment write no more than they are worth: they are paid for by what clients write, and end
//! when nobody writes.

use std::time::Duration;

use flotilla_proto::record::command::Command;

/// What is copied is compared with what else is written for so long at a time.
const WINDOW: Duration = Duration::from_secs(20);
/// Bytes of copies allowed for each byte of everything else. For room, the dearest, a leader writes three bytes to get one back;
/// and where a log has four segments, a few messages in each, those are never quite full.
const FACTOR: u64 = 8;
/// And this many segments, which is two of the logs that are drawn small: what became due before is copied now.
const SEGMENTS: u64 = 16;

/// Bytes of entries that were seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct Copies {
    since: Duration,
    copied: u64,
    others: u64,
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
    pub fn judge(&mut self, at: Duration, segment_bytes: u64) -> Option<String> {
        let Copies {
            since,
            copied,
            others,
            told,
        } = *self;
        if at >= since + WINDOW {
            *self = Copies {
                since: at,
                told,
                ..Copies::default()
            };
        }
        if told || copied <= FACTOR * others + SEGMENTS * segment_bytes {
            return None;
        }
        self.told = true;
        Some(format!(
            "copies: {copied} bytes were copied forward from {since:?} to {at:?}, beside {others} bytes of all else"
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
        // 5,400 beside 400, and 16 segments.
        assert_eq!(copies.judge(Duration::from_secs(1), 138), None);
        assert!(copies.judge(Duration::from_secs(1), 137).is_some());
        assert_eq!(copies.judge(Duration::from_secs(1), 137), None, "it was said");
    }

    #[test]
    fn each_window_is_judged_by_itself() {
        let mut copies = Copies::default();
        copies.add(10_000, &[Some(Command::Append(Append::default()))]);
        copied(&mut copies, 9);
        assert_eq!(copies.judge(WINDOW, 0), None);
        copied(&mut copies, 9);
        assert!(copies.judge(WINDOW * 2, 0).is_some());
    }
}

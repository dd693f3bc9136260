//! Bytes of answers that wait in the node until whoever asked has read them: counted until the kernel has taken them, and
//! bounded for each reader and over all of them.
//!
//! Room is taken before anything is leased: who does not read is refused then, and loses nothing. When most of the room of
//! all is used, those who read nothing give way, so that the others do not notice.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::limits::{MAX_UNREAD_BYTES, MAX_UNREAD_BYTES_PER_READER, SLOWEST_READ_BYTES};

/// All readers of a node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Unread(Arc<Sum>);

#[derive(Debug)]
struct Sum {
    most: u64,
    most_each: u64,
    held: AtomicU64,
    refused: AtomicU64,
    gave_way: AtomicU64,
    next: AtomicU64,
    readers: Mutex<BTreeMap<u64, Weak<Reader>>>,
}

/// Somebody who reads answers: a connection, or another node.
#[derive(Debug)]
pub struct Reader {
    sum: Arc<Sum>,
    number: u64,
    can_give_way: bool,
    held: AtomicU64,
    /// Of what is held, bytes that can be read.
    unread: AtomicU64,
    /// Bytes that were read since it began.
    read: AtomicU64,
    leave: Notify,
}

/// What a reader had read, and could have read, at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    unread: u64,
    read: u64,
}

impl Progress {
    /// It has read neither all that it could nor enough to count as reading.
    fn is_stuck_since(&self, before: &Progress) -> bool {
        self.read - before.read < before.unread.min(SLOWEST_READ_BYTES)
    }
}

/// Bytes held for one answer, until they are dropped.
#[derive(Debug)]
pub struct Room {
    reader: Arc<Reader>,
    bytes: u64,
    most: u64,
    unread: bool,
}

/// A piece of an answer; dropped when it has left.
struct Piece {
    bytes: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Default for Unread {
    fn default() -> Self {
        Self::new(MAX_UNREAD_BYTES, MAX_UNREAD_BYTES_PER_READER)
    }
}

impl Unread {
    /// At most `most` bytes in sum, and `most_each` for each reader.
    pub fn new(most: u64, most_each: u64) -> Self {
        Self(Arc::new(Sum {
            most,
            most_each,
            held: AtomicU64::default(),
            refused: AtomicU64::default(),
            gave_way: AtomicU64::default(),
            next: AtomicU64::default(),
            readers: Mutex::default(),
        }))
    }

    /// A reader who begins.
    pub fn reader(&self) -> Arc<Reader> {
        self.begin(true)
    }

    /// Another node: it is not asked to give way, because it reads for many.
    pub fn node_reader(&self) -> Arc<Reader> {
        self.begin(false)
    }

    fn begin(&self, can_give_way: bool) -> Arc<Reader> {
        let number = self.0.next.fetch_add(1, Relaxed);
        let reader = Arc::new(Reader {
            sum: Arc::clone(&self.0),
            number,
            can_give_way,
            held: AtomicU64::default(),
            unread: AtomicU64::default(),
            read: AtomicU64::default(),
            leave: Notify::new(),
        });
        self.0.readers().insert(number, Arc::downgrade(&reader));
        reader
    }

    /// Bytes held now: what waits to be read, and room for what is being made.
    pub fn held(&self) -> u64 {
        self.0.held.load(Relaxed)
    }

    /// Answers that found no room.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }

    /// Readers that were told to give way.
    pub fn gave_way(&self) -> u64 {
        self.0.gave_way.load(Relaxed)
    }

    /// When half of the room is used: those give way, the largest first, who have read next to nothing since the last look of
    /// what they had to read then, until half of it is free. `seen` is what each had read, and could.
    pub fn ask_the_stuck(&self, seen: &mut BTreeMap<u64, Progress>) {
        let before = std::mem::take(seen);
        let readers: Vec<_> = self.0.readers().values().filter_map(Weak::upgrade).collect();
        let nodes = readers.iter().filter(|reader| !reader.can_give_way);
        let nodes: u64 = nodes.map(|reader| reader.held.load(Relaxed)).sum();
        let mut held = self.held();
        // However much nodes hold, the others are left a quarter.
        let enough = (self.0.most / 2).max(nodes + self.0.most / 4);
        // Before looks at other nodes find no room.
        if held <= enough {
            return;
        }
        let mut stuck = Vec::new();
        for reader in readers.into_iter().filter(|reader| reader.can_give_way) {
            let now = reader.progress();
            let before = before.get(&reader.number);
            if before.is_some_and(|before| now.is_stuck_since(before)) {
                stuck.push((now.unread, reader));
            } else if now.unread > 0 {
                seen.insert(reader.number, now);
            }
        }
        stuck.sort_by_key(|(unread, reader)| (Reverse(*unread), reader.number));
        for (unread, reader) in stuck {
            if held <= enough {
                break;
            }
            held = held.saturating_sub(unread);
            self.0.gave_way.fetch_add(1, Relaxed);
            reader.leave.notify_one();
        }
    }
}

impl Sum {
    fn readers(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<Reader>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    /// Room for an answer; none of it is taken yet.
    pub fn room(self: &Arc<Self>) -> Room {
        Room {
            reader: Arc::clone(self),
            bytes: 0,
            most: u64::MAX,
            unread: false,
        }
    }

    /// True of a reader for whom nothing more is to be begun, whatever it may be: answers to what takes effect are not
    /// refused when they are there.
    pub fn is_full(&self) -> bool {
        self.held.load(Relaxed) > self.sum.most_each + self.sum.most_each / 4
    }

    fn progress(&self) -> Progress {
        Progress {
            unread: self.unread.load(Relaxed),
            read: self.read.load(Relaxed),
        }
    }

    /// Ready when this reader is to give way.
    pub async fn gives_way(&self) {
        self.leave.notified().await;
    }

    fn take(&self, bytes: u64, most_each: u64, most: u64) -> bool {
        if !add_within(&self.held, bytes, most_each) {
            return false;
        }
        if !add_within(&self.sum.held, bytes, most) {
            self.held.fetch_sub(bytes, Relaxed);
            return false;
        }
        true
    }

    fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Relaxed);
        self.sum.held.fetch_sub(bytes, Relaxed);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.sum.readers().remove(&self.number);
    }
}

impl Room {
    /// What is taken.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// This answer has at most so many bytes.
    pub fn limit(&mut self, most: u64) {
        self.most = most;
    }

    /// Takes so much more; false, and nothing is taken, if there is no room.
    pub fn grow(&mut self, bytes: u64) -> bool {
        let (each, sum) = (self.reader.sum.most_each, self.reader.sum.most);
        let grown = self.grow_within(bytes, each, sum);
        if !grown && self.bytes == 0 {
            self.reader.sum.refused.fetch_add(1, Relaxed);
        }
        grown
    }

    /// The same for what may not be needed: the last quarter is left to what is.
    pub fn grow_spare(&mut self, bytes: u64) -> bool {
        let sum = &self.reader.sum;
        let (each, sum) = (three_quarters(sum.most_each), three_quarters(sum.most));
        self.grow_within(bytes, each, sum)
    }

    fn grow_within(&mut self, bytes: u64, most_each: u64, most: u64) -> bool {
        let grown = self.bytes + bytes <= self.most && self.reader.take(bytes, most_each, most);
        if grown {
            self.bytes += bytes;
            self.tell_unread(|unread| unread.fetch_add(bytes, Relaxed));
        }
        grown
    }

    /// The answer is there, or there is none, and has so many bytes, whatever the bounds say.
    pub fn settle(&mut self, bytes: u64) {
        let (more, less) = (bytes.saturating_sub(self.bytes), self.bytes.saturating_sub(bytes));
        self.reader.take(more, u64::MAX, u64::MAX);
        self.reader.give_back(less);
        self.tell_unread(|unread| unread.fetch_add(more, Relaxed));
        self.tell_unread(|unread| unread.fetch_sub(less, Relaxed));
        self.bytes = bytes;
    }

    fn tell_unread(&self, change: impl FnOnce(&AtomicU64) -> u64) {
        if self.unread {
            change(&self.reader.unread);
        }
    }

    /// From now on it is the reader's turn.
    pub fn can_be_read(&mut self) {
        if !self.unread {
            self.unread = true;
            self.reader.unread.fetch_add(self.bytes, Relaxed);
        }
    }

    /// A piece of the answer with its share of the room.
    ///
    /// # Panics
    /// There is less room.
    pub fn piece(&mut self, bytes: Bytes) -> Bytes {
        self.can_be_read();
        let share = bytes.len() as u64;
        self.bytes = self
            .bytes
            .checked_sub(share)
            .expect("room was taken for all of it");
        let room = Room {
            reader: Arc::clone(&self.reader),
            bytes: share,
            most: self.most,
            unread: true,
        };
        Bytes::from_owner(Piece { bytes, _room: room })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.unread {
            self.reader.unread.fetch_sub(self.bytes, Relaxed);
            self.reader.read.fetch_add(self.bytes, Relaxed);
        }
        self.reader.give_back(self.bytes);
    }
}

fn add_within(sum: &AtomicU64, bytes: u64, most: u64) -> bool {
    let more = |held: u64| held.checked_add(bytes).filter(|&sum| sum <= most);
    sum.fetch_update(Relaxed, Relaxed, more).is_ok()
}

fn three_quarters(most: u64) -> u64 {
    most / 4 * 3
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn held(reader: &Arc<Reader>, bytes: u64) -> Option<Room> {
        let mut room = reader.room();
        room.grow(bytes).then_some(room)
    }

    #[test]
    fn each_reader_and_all_of_them_have_a_bound_and_what_is_refused_takes_nothing() {
        let unread = Unread::new(100, 60);
        let (one, other) = (unread.reader(), unread.reader());
        let first = held(&one, 60).unwrap();
        assert!(held(&one, 1).is_none());
        let second = held(&other, 40).unwrap();
        assert!(held(&other, 1).is_none(), "its own bound has room");
        assert_eq!((unread.held(), unread.refused()), (100, 2));
        drop((first, second));
        assert_eq!(unread.held(), 0);
        assert!(held(&other, 60).is_some());
    }

    #[test]
    fn what_may_not_be_needed_leaves_a_quarter_to_what_is() {
        let unread = Unread::new(100, 80);
        let reader = unread.reader();
        let mut spare = reader.room();
        assert!(spare.grow_spare(60));
        assert!(!spare.grow_spare(1));
        assert!(spare.grow(20));
        assert_eq!(unread.refused(), 0);
    }

    #[test]
    fn the_pieces_of_an_answer_give_their_room_back_one_by_one() {
        let unread = Unread::new(100, 100);
        let reader = unread.reader();
        let mut room = reader.room();
        room.limit(30);
        assert!(room.grow(30) && !room.grow(1));
        room.settle(10);
        let first = room.piece(Bytes::from_static(b"abcd"));
        let second = room.piece(Bytes::from_static(b"efghij"));
        drop(room);
        assert_eq!((unread.held(), &second[..]), (10, &b"efghij"[..]));
        drop(first);
        assert_eq!(unread.held(), 6);
        drop(second);
        assert_eq!(unread.held(), 0);
    }

    #[test]
    fn those_who_read_nothing_give_way_when_most_of_the_room_is_used_and_nobody_else() {
        let unread = Unread::new(100, 50);
        let readers: Vec<_> = (0..4).map(|_| unread.reader()).collect();
        let asked = |reader: &Arc<Reader>| reader.gives_way().now_or_never().is_some();
        let mut rooms: Vec<Room> = [30, 20, 20, 9]
            .iter()
            .zip(&readers)
            .map(|(&bytes, reader)| held(reader, bytes).unwrap())
            .collect();
        // The third waits for another node's answer and has nothing to read.
        for at in [0, 1, 3] {
            rooms[at].can_be_read();
        }
        let mut seen = BTreeMap::new();
        unread.ask_the_stuck(&mut seen);
        assert!(!readers.iter().any(asked), "nobody is known to be stuck yet");
        drop(rooms[1].piece(Bytes::from_static(b"read")));
        rooms[1].settle(20);
        unread.ask_the_stuck(&mut seen);
        assert_eq!(
            readers.iter().map(asked).collect::<Vec<_>>(),
            [true, false, false, false]
        );
        assert_eq!(unread.gave_way(), 1);
        drop(rooms.remove(0));
        unread.ask_the_stuck(&mut seen);
        unread.ask_the_stuck(&mut seen);
        assert!(!readers.iter().any(asked), "there is room");
    }

    #[test]
    fn a_trickle_does_not_count_as_reading_and_all_that_there_was_does() {
        let most = 4 * SLOWEST_READ_BYTES;
        let unread = Unread::new(most, most);
        let (slow, fast, node) = (unread.reader(), unread.reader(), unread.node_reader());
        let mut rooms: Vec<Room> = [(&slow, most / 2), (&fast, 100), (&node, most / 4)]
            .map(|(reader, bytes)| held(reader, bytes).unwrap())
            .into();
        rooms.iter_mut().for_each(Room::can_be_read);
        let mut seen = BTreeMap::new();
        unread.ask_the_stuck(&mut seen);
        // Of the first a byte is read. The second has read what it had and has more; the node reads nothing.
        drop(rooms[0].piece(Bytes::from_static(b"a")));
        drop(rooms.remove(1));
        let mut more = held(&fast, 100).unwrap();
        more.can_be_read();
        unread.ask_the_stuck(&mut seen);
        let asked = |reader: &Arc<Reader>| reader.gives_way().now_or_never().is_some();
        assert_eq!([&slow, &fast, &node].map(asked), [true, false, false]);
    }
}

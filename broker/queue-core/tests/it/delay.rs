//! Messages that wait to be due.

use std::cell::Cell;

use bytes::Bytes;
use flotilla_proto::record::{Recall, Timer, command::Command};
use queue_core::{
    Core, Effect, Fault, KeyValue, Outcome, QueueId, RecallResult, Reply,
    limits::{DEDUP_WINDOW_MS, RECALLED_KEPT_MS},
    message_id_hash,
};

use crate::support::{
    G, Map, Q, Q_TWIN, START_MS, Shard, append_due, command, copy_forward, fire, offsets, recall, retime,
};

const ROOM: u64 = Q | 1 << 31;

impl Shard {
    /// The number of its timer.
    fn wait(&mut self, queue: u64, id: &str, ms: u64) -> u64 {
        match self.apply(append_due(queue, id, self.now_ms + ms)) {
            Reply::Appended {
                queue: room,
                offset,
                duplicate: false,
            } if room == QueueId(queue).waiting_room() => offset,
            other => panic!("{other:?}"),
        }
    }

    /// What the leader would fire; how many were.
    fn fire(&mut self) -> u32 {
        let due = self.core.due(&self.kv, self.now_ms, 99).unwrap();
        match self.apply(fire(due)) {
            Reply::Fired { fired, .. } => fired,
            other => panic!("{other:?}"),
        }
    }

    fn recall(&mut self, timer: u64) -> RecallResult {
        match self.apply(recall(Q, timer)) {
            Reply::Recalled(result) => result,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_message_that_waits_is_nobodys_until_it_is_due_and_then_stands_in_its_queue_once() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    assert_eq!(shard.wait(Q, "a", 500), 0);
    let sent_at = shard.index;
    shard.fill(Q, 1);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 5)), [0, 1]);
    shard.pass(499);
    assert_eq!((shard.core.next_due(), shard.fire()), (Some(START_MS + 500), 0));
    shard.pass(1);
    assert_eq!(shard.fire(), 1);
    let leases = shard.deliver(G, Q, 9, 6);
    assert_eq!((offsets(&leases), leases[0].position.index), (vec![2], sent_at));
    assert_eq!((shard.core.next_due(), shard.fire()), (None, 0));
}

#[test]
fn what_the_leader_names_too_early_or_twice_is_left_out() {
    let mut shard = Shard::new();
    let timer = shard.wait(Q, "a", 500);
    let named = Timer { queue: Q, timer };
    shard.pass(499);
    let none = Reply::Fired {
        fired: 0,
        forgotten: 0,
    };
    assert_eq!(shard.apply(fire(vec![named])), none);
    shard.pass(1);
    let fired = Outcome {
        reply: Reply::Fired {
            fired: 1,
            forgotten: 0,
        },
        effects: vec![Effect::Appended { queue: QueueId(Q) }],
    };
    assert_eq!(shard.outcome(fire(vec![named, named])), fired);
    assert_eq!(shard.next(Q), 1);
}

#[test]
fn a_leader_that_is_behind_makes_nothing_early() {
    let mut shard = Shard::new();
    shard.fill(Q, 1);
    shard.now_ms -= 300;
    shard.wait(Q, "a", 500);
    assert_eq!(shard.core.next_due(), Some(START_MS + 500));
}

#[test]
fn messages_come_in_the_order_in_which_they_are_due() {
    let mut shard = Shard::subscribed();
    let (late, soon) = (shard.wait(Q, "late", 900), shard.wait(Q, "soon", 100));
    let places: Vec<u64> = [soon, late]
        .map(|timer| shard.entry_of(ROOM, timer).unwrap())
        .to_vec();
    shard.pass(1_000);
    assert_eq!(shard.fire(), 2);
    let came = shard.deliver(G, Q, 9, 5);
    assert_eq!(
        came.iter().map(|lease| lease.position.index).collect::<Vec<_>>(),
        places
    );
}

#[test]
fn a_recalled_message_never_comes_and_one_that_came_is_not_recalled() {
    let mut shard = Shard::new();
    let (first, second) = (shard.wait(Q, "a", 100), shard.wait(Q, "b", 200));
    assert_eq!(shard.recall(first), RecallResult::Done);
    assert_eq!(shard.recall(first), RecallResult::Again);
    shard.pass(200);
    // It is due, and has not come yet.
    assert_eq!(shard.recall(second), RecallResult::Done);
    let third = shard.wait(Q, "c", 0);
    assert_eq!((shard.fire(), shard.recall(third)), (1, RecallResult::Over));
    assert_eq!((shard.next(Q), shard.recall(77)), (1, RecallResult::Over));
}

#[test]
fn a_recall_that_means_another_message_of_that_number_recalls_nothing() {
    let mut shard = Shard::subscribed();
    let timer = shard.wait(Q, "a", 500);
    for (id, result) in [("b", RecallResult::Over), ("a", RecallResult::Done)] {
        let recall = Recall {
            queue: Q,
            timer,
            message_id: message_id_hash(id),
        };
        let reply = shard.apply(command(Command::Recall(recall)));
        assert_eq!(reply, Reply::Recalled(result), "{id}");
    }
}

#[test]
fn that_a_message_was_recalled_is_known_for_a_while() {
    let mut shard = Shard::new();
    let timer = shard.wait(Q, "a", 100);
    shard.recall(timer);
    assert_eq!(shard.core.waiting_for(QueueId(Q)), 0);
    shard.pass(RECALLED_KEPT_MS - 1);
    assert_eq!((shard.fire(), shard.recall(timer)), (0, RecallResult::Again));
    shard.pass(1);
    assert_eq!((shard.fire(), shard.recall(timer)), (0, RecallResult::Over));
    assert_eq!((shard.core.next_due(), shard.next(Q)), (None, 0));
    assert_eq!(shard.wait(Q, "b", 100), 1, "a number is never used again");
}

#[test]
fn a_repeated_send_learns_where_the_message_waits_or_stands() {
    let mut shard = Shard::new();
    shard.fill(Q, 3);
    let timer = shard.wait(Q, "a", 500);
    let due_ms = shard.now_ms + 500;
    let again = |shard: &mut Shard| match shard.apply(append_due(Q_TWIN, "a", due_ms)) {
        Reply::Appended {
            queue,
            offset,
            duplicate: true,
        } => (queue.0, offset),
        other => panic!("{other:?}"),
    };
    assert_eq!(again(&mut shard), (ROOM, timer));
    shard.pass(500);
    shard.fire();
    assert_eq!(again(&mut shard), (Q, 3));
    assert_eq!(shard.append(Q, "a"), (Q, 3, true));
    shard.pass(DEDUP_WINDOW_MS);
    assert_eq!(shard.append(Q, "a"), (Q, 4, false));
}

#[test]
fn a_recalled_message_is_not_stored_by_a_repeated_send() {
    let mut shard = Shard::new();
    let timer = shard.wait(Q, "a", 500);
    shard.recall(timer);
    assert_eq!(shard.append(Q, "a"), (ROOM, timer, true));
}

#[test]
fn a_message_is_due_at_its_new_time() {
    let mut shard = Shard::new();
    let (first, second) = (shard.wait(Q, "a", 100), shard.wait(Q, "b", 900));
    let at = shard.now_ms;
    assert_eq!(shard.apply(retime(Q, first, at + 2_000)), Reply::Retimed(true));
    assert_eq!(shard.apply(retime(Q, second, at + 300)), Reply::Retimed(true));
    assert_eq!(shard.entry_of(ROOM, second), Some(shard.index));
    assert_eq!(shard.core.next_due(), Some(at + 300));
    shard.pass(300);
    assert_eq!(shard.fire(), 1);
    assert_eq!(shard.apply(retime(Q, second, at)), Reply::Retimed(false));
    // In the past is at once.
    assert_eq!(shard.apply(retime(Q, first, 0)), Reply::Retimed(true));
    assert_eq!((shard.core.next_due(), shard.fire()), (Some(shard.now_ms), 1));
    assert_eq!(shard.next(Q), 2);
}

#[test]
fn the_entry_of_what_waits_is_kept_until_it_is_copied() {
    let mut shard = Shard::subscribed();
    let timer = shard.wait(Q, "a", 500);
    let sent_at = shard.index;
    shard.fill(Q, 2);
    shard.trim(Q, 2, 9);
    assert_eq!(shard.oldest(), Some(sent_at));
    assert_eq!(shard.stragglers(u64::MAX, 9), [(ROOM, timer)]);
    assert_eq!(shard.core.displaced_bytes(), 40);
    assert_eq!(shard.apply(copy_forward(ROOM, timer)), Reply::Copied(true));
    assert_eq!(shard.oldest(), Some(shard.index));
    let copied_to = shard.index;
    shard.pass(500);
    shard.fire();
    assert_eq!(shard.deliver(G, Q, 9, 5)[0].position.index, copied_to);
    assert_eq!(shard.apply(copy_forward(ROOM, timer)), Reply::Copied(false));
}

#[test]
fn trimming_a_queue_leaves_what_waits_for_it() {
    let mut shard = Shard::new();
    shard.wait(Q, "a", 500);
    shard.fill(Q, 3);
    shard.trim(Q, u64::MAX, 9);
    shard.pass(500);
    assert_eq!((shard.fire(), shard.next(Q)), (1, 4));
}

#[test]
fn what_waits_goes_with_its_queue_in_steps() {
    let mut shard = Shard::new();
    let timer = shard.wait(Q, "a", 100);
    shard.recall(timer);
    for id in ["b", "c", "d"] {
        shard.wait(Q, id, 500);
    }
    let topic = QueueId(Q).topic();
    assert_eq!(shard.core.queues_of(topic), [(QueueId(Q), true)].into());
    assert_eq!(shard.core.topics_from(0, 9), [topic]);
    assert_eq!(shard.core.rows_of(QueueId(Q)), 4);
    assert!(shard.drop_queue(Q, 3));
    assert_eq!(shard.core.waiting_for(QueueId(Q)), 1);
    assert!(!shard.drop_queue(Q, 2));
    assert_eq!(shard.core.queues_of(topic), [].into());
    assert_eq!((shard.core.next_due(), shard.oldest()), (None, None));
    assert_eq!(shard.core.displaced_bytes(), 0);
}

/// Counts the rows that are read.
struct Counted<'a>(&'a Map, Cell<usize>);

impl KeyValue for Counted<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.1.set(self.1.get() + 1);
        self.0.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        let found = self.0.scan(from, to, limit)?;
        self.1.set(self.1.get() + found.len());
        Ok(found)
    }

    fn put(&mut self, _: &[u8], _: &[u8]) -> Result<(), Fault> {
        unreachable!("it is only read")
    }

    fn delete(&mut self, _: &[u8]) -> Result<(), Fault> {
        unreachable!("it is only read")
    }
}

#[test]
fn a_restart_reads_as_much_however_many_messages_wait() {
    let mut shard = Shard::new();
    shard.careful = false;
    for number in 0..5_000 {
        shard.wait(Q, &number.to_string(), 500);
    }
    // The ids of the last two minutes are read.
    shard.kv.0.retain(|key, _| key[0] != b'd');
    let kv = Counted(&shard.kv, Cell::new(0));
    let loaded = Core::load(&kv).unwrap();
    assert_eq!(loaded.waiting_for(QueueId(Q)), 5_000);
    assert_eq!(loaded.next_due(), Some(START_MS + 500));
    assert_eq!(loaded.displaced_bytes(), 5_000 * 40);
    assert!(kv.1.get() < 10, "{} rows", kv.1.get());
}

#[test]
fn a_queue_is_forgotten_for_room_by_what_stands_in_order_in_it() {
    let mut shard = Shard::new();
    shard.wait(Q, "early", 1);
    shard.fill(Q, 2);
    shard.pass(1);
    shard.fire();
    shard.fill(Q, 1);
    shard.wait(Q, "later", 1);
    shard.pass(1);
    shard.fire();
    shard.fill(Q, 2);
    // In order are 0, 1, 3, 5 and 6.
    let beyond = |shard: &Shard, through| shard.core.first_beyond(&shard.kv, QueueId(Q), through).unwrap();
    let entry = |offset| shard.entry_of(Q, offset).unwrap();
    assert_eq!(beyond(&shard, entry(0) - 1), None);
    assert_eq!(beyond(&shard, entry(0)), Some(1));
    assert_eq!(beyond(&shard, entry(1)), Some(2));
    assert_eq!(beyond(&shard, entry(3)), Some(4));
    assert_eq!(beyond(&shard, u64::MAX), Some(7));
    let last = entry(5);
    shard.trim(Q, 2, 9);
    assert_eq!(beyond(&shard, last), Some(6));
}

#[test]
fn what_waits_is_shown_page_by_page() {
    let mut shard = Shard::new();
    let timers: Vec<u64> = ["a", "b", "c"].map(|id| shard.wait(Q, id, 500)).to_vec();
    shard.wait(Q_TWIN, "d", 500);
    shard.recall(timers[1]);
    let page = |from, limit| {
        shard
            .core
            .waiting_from(&shard.kv, QueueId(Q), from, limit)
            .unwrap()
    };
    let all = page(0, 9);
    let shown: Vec<(u64, bool)> = all.iter().map(|it| (it.timer, it.stored.is_some())).collect();
    assert_eq!(shown, [(timers[0], true), (timers[1], false), (timers[2], true)]);
    assert_eq!(all[0].at_ms, START_MS + 500);
    assert_eq!((page(0, 2).len(), page(2, 2).len(), page(3, 2).len()), (2, 1, 0));
}

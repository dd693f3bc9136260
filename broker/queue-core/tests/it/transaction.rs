//! Half messages, and how their transactions end.

use bytes::Bytes;
use flotilla_proto::record::{Append, CheckBack, Command, EndHalf, GiveUp, Timer, command::Command as Kind};
use queue_core::{
    Core, Effect, EndResult, Half, Outcome, QueueId, RecallResult, Refusal, Reply, Wait,
    limits::{DEDUP_WINDOW_MS, ENDED_KEPT_MS, MAX_OPEN_HALVES},
    message_id_hash,
};

use crate::support::{G, Q, Shard, append_due, command, copy_forward, fire, offsets, recall, retime};

pub(crate) fn append_half(queue: u64, id: &str, due_ms: u64) -> Command {
    let message = Bytes::from_static(b"never looked into");
    command(Kind::Append(Append {
        queue,
        message_id: id.into(),
        message,
        due_ms,
        half: true,
        ..Append::default()
    }))
}

/// Of the transaction of a half message with this id.
pub(crate) fn end(queue: u64, timer: u64, id: &str, commits: bool) -> Command {
    let end = EndHalf {
        queue,
        timer,
        message_id: message_id_hash(id),
    };
    command(match commits {
        true => Kind::Commit(end),
        false => Kind::Rollback(end),
    })
}

pub(crate) fn check_back(halves: Vec<Timer>, next_ms: u64) -> Command {
    command(Kind::CheckBack(CheckBack { halves, next_ms }))
}

pub(crate) fn give_up(halves: Vec<Timer>) -> Command {
    command(Kind::GiveUp(GiveUp { halves }))
}

impl Shard {
    /// Its number.
    fn half(&mut self, id: &str, first_check_ms: u64) -> u64 {
        match self.apply(append_half(Q, id, self.now_ms + first_check_ms)) {
            Reply::Appended {
                queue,
                offset,
                duplicate: false,
            } if queue == QueueId(Q).waiting_room() => offset,
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, timer: u64, id: &str, commits: bool) -> EndResult {
        match self.apply(end(Q, timer, id, commits)) {
            Reply::Ended(result) => result,
            other => panic!("{other:?}"),
        }
    }

    /// What the leader would check back, and ask for again after so long.
    fn check(&mut self, again_ms: u64) -> Vec<Half> {
        let due = self.core.due_checks(&self.kv, self.now_ms, 99).unwrap();
        let halves = due.into_iter().map(|due| due.half).collect();
        match self.apply(check_back(halves, self.now_ms + again_ms)) {
            Reply::CheckedBack { halves } => halves,
            other => panic!("{other:?}"),
        }
    }
}

fn named(timer: u64) -> Vec<Timer> {
    vec![Timer { queue: Q, timer }]
}

#[test]
fn a_half_message_is_nobodys_until_it_is_committed_and_then_stands_in_its_queue_once() {
    let mut shard = Shard::subscribed();
    let timer = shard.half("a", 500);
    let sent_at = shard.index;
    shard.fill(Q, 1);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 5)), [0]);
    assert_eq!(shard.core.halves_of(QueueId(Q)), (1, 0));
    let committed = Outcome {
        reply: Reply::Ended(EndResult::Done),
        effects: vec![Effect::Appended { queue: QueueId(Q) }],
    };
    assert_eq!(shard.outcome(end(Q, timer, "a", true)), committed);
    let leases = shard.deliver(G, Q, 9, 6);
    assert_eq!((offsets(&leases), leases[0].position.index), (vec![1], sent_at));
    assert_eq!(shard.core.halves_of(QueueId(Q)), (0, 0));
    assert_eq!(shard.core.next_check(), None);
}

#[test]
fn the_first_end_decides_the_same_again_is_told_so_and_the_contrary_is_refused() {
    let mut shard = Shard::subscribed();
    let (first, second) = (shard.half("a", 500), shard.half("b", 500));
    for (timer, id, commits) in [(first, "a", true), (second, "b", false)] {
        assert_eq!(shard.end(timer, id, commits), EndResult::Done);
        assert_eq!(shard.end(timer, id, commits), EndResult::Again);
        assert_eq!(shard.end(timer, id, !commits), EndResult::Contrary);
    }
    assert_eq!(
        offsets(&shard.deliver(G, Q, 9, 5)),
        [0],
        "what was rolled back never comes"
    );
}

#[test]
fn how_it_ended_is_known_for_a_while_and_then_nobody_knows() {
    let mut shard = Shard::subscribed();
    let timer = shard.half("a", 500);
    assert_eq!(shard.end(timer, "a", false), EndResult::Done);
    shard.pass(ENDED_KEPT_MS - 1);
    assert_eq!(shard.core.due(&shard.kv, shard.now_ms, 9).unwrap(), []);
    assert_eq!(shard.end(timer, "a", false), EndResult::Again);
    shard.pass(1);
    let due = shard.core.due(&shard.kv, shard.now_ms, 9).unwrap();
    let forgotten = Reply::Fired {
        fired: 0,
        forgotten: 1,
    };
    assert_eq!(shard.apply(fire(due)), forgotten);
    assert_eq!(shard.end(timer, "a", false), EndResult::Unknown);
}

#[test]
fn an_end_names_the_message_that_is_meant() {
    let mut shard = Shard::new();
    let timer = shard.half("a", 500);
    assert_eq!(shard.end(timer, "b", true), EndResult::Unknown);
    assert_eq!(shard.end(timer + 1, "a", true), EndResult::Unknown);
    let Reply::Appended { offset: delayed, .. } = shard.apply(append_due(Q, "c", shard.now_ms + 9)) else {
        panic!()
    };
    assert_eq!(
        shard.end(delayed, "c", true),
        EndResult::Unknown,
        "it waits for its date"
    );
    assert_eq!(shard.end(timer, "a", true), EndResult::Done);
}

#[test]
fn a_half_message_is_neither_fired_nor_recalled_nor_given_another_date() {
    let mut shard = Shard::new();
    let timer = shard.half("a", 500);
    shard.pass(500);
    assert_eq!((shard.core.next_due(), shard.next(Q)), (None, 0));
    let none = Reply::Fired {
        fired: 0,
        forgotten: 0,
    };
    assert_eq!(shard.apply(fire(named(timer))), none);
    assert_eq!(shard.apply(recall(Q, timer)), Reply::Recalled(RecallResult::Over));
    assert_eq!(shard.apply(retime(Q, timer, 7)), Reply::Retimed(false));
    assert_eq!(shard.end(timer, "a", true), EndResult::Done);
}

#[test]
fn a_half_message_that_is_sent_again_is_answered_as_it_was_first_however_it_ended() {
    let mut shard = Shard::new();
    let timer = shard.half("a", 500);
    let again = Reply::Appended {
        queue: QueueId(Q).waiting_room(),
        offset: timer,
        duplicate: true,
    };
    assert_eq!(shard.apply(append_half(Q, "a", 9)), again);
    assert_eq!(shard.end(timer, "a", true), EndResult::Done);
    shard.pass(DEDUP_WINDOW_MS - 1);
    assert_eq!(shard.apply(append_half(Q, "a", 9)), again);
    assert_eq!(shard.end(timer, "a", true), EndResult::Again);
}

#[test]
fn it_is_checked_back_when_its_time_has_come_and_again_when_the_leader_said() {
    let mut shard = Shard::new();
    let timer = shard.half("a", 500);
    shard.pass(499);
    assert_eq!(
        shard.apply(check_back(named(timer), 0)),
        Reply::CheckedBack { halves: vec![] }
    );
    shard.pass(1);
    let checked = shard.check(300);
    assert_eq!(
        (checked.len(), checked[0].timer, checked[0].checks),
        (1, timer, 1)
    );
    assert_eq!(shard.check(300), [], "just asked");
    shard.pass(300);
    assert_eq!(shard.check(300)[0].checks, 2);
    assert_eq!(shard.end(timer, "a", false), EndResult::Done);
    shard.pass(300);
    assert_eq!((shard.core.next_check(), shard.check(300)), (None, vec![]));
}

#[test]
fn what_was_given_up_is_listed_and_can_be_ended() {
    let mut shard = Shard::subscribed();
    let timer = shard.half("a", 500);
    assert_eq!(
        shard.apply(give_up(named(timer))),
        Reply::GivenUp(0),
        "its time has not come"
    );
    shard.pass(500);
    assert_eq!(shard.apply(give_up(named(timer))), Reply::GivenUp(1));
    assert_eq!(shard.apply(give_up(named(timer))), Reply::GivenUp(0));
    assert_eq!(shard.core.halves_of(QueueId(Q)), (0, 1));
    shard.pass(9_000);
    assert_eq!((shard.core.next_check(), shard.check(300)), (None, vec![]));
    let listed = shard.core.waiting_from(&shard.kv, QueueId(Q), 0, 9).unwrap();
    assert_eq!((listed.len(), listed[0].wait), (1, Wait::GivenUp));
    assert_eq!(shard.end(timer, "a", true), EndResult::Done);
    assert_eq!(shard.end(timer, "a", false), EndResult::Contrary);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 5)), [0]);
}

#[test]
fn its_entry_is_kept_and_copied_forward_until_it_ends() {
    let mut shard = Shard::new();
    let timer = shard.half("a", 500);
    let sent_at = shard.index;
    assert_eq!(shard.oldest(), Some(sent_at));
    let room = QueueId(Q).waiting_room().0;
    assert_eq!(shard.apply(copy_forward(room, timer)), Reply::Copied(true));
    assert_eq!(shard.oldest(), Some(shard.index));
    assert_eq!(shard.end(timer, "a", false), EndResult::Done);
    assert_eq!(shard.oldest(), None);
}

#[test]
fn open_transactions_hold_up_nothing_that_waits_for_its_date() {
    let mut shard = Shard::new();
    for number in 0..50 {
        shard.half(&number.to_string(), 0);
    }
    shard.apply(append_due(Q, "late", shard.now_ms + 5));
    shard.pass(5);
    let due = shard.core.due(&shard.kv, shard.now_ms, 1).unwrap();
    assert_eq!((due.len(), due[0].timer), (1, 50));
}

#[test]
fn a_start_knows_the_first_check_and_how_many_transactions_are_open() {
    let mut shard = Shard::new();
    for number in 0..500 {
        shard.half(&number.to_string(), 500);
    }
    let loaded = Core::load(&shard.kv).unwrap();
    assert_eq!(loaded.next_check(), Some(shard.now_ms + 500));
    assert_eq!(loaded.halves_of(QueueId(Q)), (500, 0));
}

/// Found by reading: nothing ended what a producer left open, and nothing bounded it.
#[test]
fn a_queue_has_so_many_open_transactions_at_most_and_room_again_when_one_ends() {
    let mut shard = Shard::new();
    let first = shard.half("0", 1_000);
    // Looking at everything after each would take longer than anybody waits.
    shard.careful = false;
    for number in 1..MAX_OPEN_HALVES {
        shard.half(&number.to_string(), 1_000);
    }
    shard.careful = true;
    let too_many = shard.apply(append_half(Q, "one more", 0));
    assert_eq!(too_many, Reply::Refused(Refusal::TooManyOpen));
    // Who sends one again that is stored is told of it.
    let again = shard.apply(append_half(Q, "0", 0));
    assert!(matches!(again, Reply::Appended { offset, duplicate: true, .. } if offset == first));
    assert_eq!(shard.end(first, "0", false), EndResult::Done);
    shard.half("one more", 1_000);
}

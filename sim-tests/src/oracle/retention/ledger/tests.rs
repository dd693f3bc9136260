//! Small clusters, and what the ledger makes of them.

use super::*;
use crate::oracle::testing::S;

/// Ten seconds and four segments of 100 bytes, of which one is for the next.
fn ledger() -> Ledger {
    Ledger::new(Rules {
        age: S(10),
        bytes: 400,
        segment_bytes: 100,
        groups: ["g".to_owned(), "h".to_owned()].into(),
        undertaker: "u".into(),
    })
}

/// A node that leads shard 1, where it is so late, with segments of a hundred entries each.
fn node(segments: std::ops::Range<u64>, now: u64) -> BTreeMap<u32, NodeLook> {
    let segment = |sequence| {
        let last = BTreeMap::from([(1, sequence * 100 + 99)]);
        (sequence, Segment { bytes: 100, last })
    };
    let look = NodeLook {
        segments: segments.map(segment).collect(),
        leads: BTreeMap::from([(1, now * 1_000)]),
        votes: BTreeSet::from([1]),
        ..NodeLook::default()
    };
    BTreeMap::from([(1, look)])
}

fn row(id: &str, stored: u64, index: u64) -> Row {
    Row {
        id: Some(id.into()),
        stored_ms: stored * 1_000,
        index,
    }
}

/// Shard 1, with one queue.
fn shard(now: u64, topic: &str, look: QueueLook) -> ShardLook {
    ShardLook {
        shard: 1,
        now_ms: now * 1_000,
        queues: BTreeMap::from([((topic.to_owned(), 0), look)]),
    }
}

fn queue(first: u64, next: u64, rows: &[(u64, Row)]) -> QueueLook {
    QueueLook {
        first,
        next,
        rows: rows.iter().cloned().collect(),
        readers: BTreeMap::new(),
    }
}

fn reader(cursor: u64, in_flight: &[u64]) -> Reader {
    Reader {
        cursor,
        in_flight: in_flight.iter().copied().collect(),
        lost: BTreeSet::new(),
    }
}

/// Forgets the first message of a queue, which was stored at 5 in entry 150, at `now`; who will not get it and why, or
/// what is wrong.
fn forget(ledger: &mut Ledger, topic: &str, now: u64) -> Result<(Vec<String>, Why), Vec<String>> {
    let mut wrong = Vec::new();
    let before = queue(0, 2, &[(0, row("t/1", 5, 150)), (1, row("t/2", 5, 250))]);
    assert!(ledger.shard(S(5), shard(5, topic, before), &mut wrong).is_empty());
    let mut events = ledger.shard(S(now), shard(now, topic, queue(1, 2, &[])), &mut wrong);
    assert_eq!(events.len(), 1);
    match events.pop() {
        Some(Event::Forgotten { groups, why, .. }) if wrong.is_empty() => Ok((groups, why)),
        _ => Err(wrong),
    }
}

#[test]
fn what_is_older_than_the_retention_may_go_and_nothing_younger() {
    let all = || vec!["g".to_owned(), "h".to_owned()];
    assert_eq!(forget(&mut ledger(), "t", 16), Ok((all(), Why::Aged(S(10)))));
    let wrong = forget(&mut ledger(), "t", 15).unwrap_err();
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].contains("10000 ms after it was stored"), "{wrong:?}");
}

#[test]
fn what_stands_in_a_segment_that_has_to_go_may_go_and_dead_letters_may_not() {
    let over = |segments: [std::ops::Range<u64>; 2], topic: &str| {
        let (mut ledger, mut wrong) = (ledger(), Vec::new());
        for (at, segments) in (1..).zip(segments) {
            ledger.nodes(S(at), node(segments, 5), &mut wrong);
        }
        forget(&mut ledger, topic, 6).is_ok()
    };
    assert!(!over([0..3, 0..3], "t"), "the log is within its bound");
    assert!(
        !over([0..4, 0..4], "t"),
        "one segment too many, and it stands in the second"
    );
    assert!(over([0..5, 0..5], "t"));
    assert!(
        over([0..4, 2..5], "t"),
        "there were five between the looks, or may have been"
    );
    assert!(over([1..5, 1..5], "t"), "the oldest is the one that it stands in");
    assert!(!over([0..5, 0..5], "%DLQ%g"));
}

#[test]
fn only_voters_count_and_one_that_died_may_have_begun_a_segment_before() {
    let mut wrong = Vec::new();
    let mut had_to_go = |votes: BTreeSet<u32>| {
        let mut ledger = ledger();
        let mut follower = node(0..5, 5);
        let look = follower.get_mut(&1).unwrap();
        (look.leads, look.votes) = (BTreeMap::new(), votes);
        ledger.nodes(S(1), follower.clone(), &mut wrong);
        ledger.nodes(S(2), follower, &mut wrong);
        ledger.had_to_go
    };
    assert_eq!(had_to_go([].into()), BTreeMap::new());
    assert_eq!(had_to_go([1].into()), BTreeMap::from([(1, 199)]));
    let mut ledger = ledger();
    ledger.nodes(S(3), node(0..3, 5), &mut wrong);
    ledger.had_to_go.clear();
    ledger.nodes(S(4), BTreeMap::new(), &mut wrong);
    assert_eq!(ledger.had_to_go, BTreeMap::from([(1, 99)]));
}

#[test]
fn who_had_it_or_has_it_in_flight_has_lost_nothing() {
    let taken = |g: Reader, h: Reader| {
        let (mut ledger, mut wrong) = (ledger(), Vec::new());
        let readers =
            |g: &Reader, h: &Reader| BTreeMap::from([("g".into(), g.clone()), ("h".into(), h.clone())]);
        let before = QueueLook {
            readers: readers(&reader(g.cursor, &[]), &reader(h.cursor, &[])),
            ..queue(0, 1, &[(0, row("t/1", 5, 150))])
        };
        ledger.shard(S(5), shard(5, "t", before), &mut wrong);
        let after = QueueLook {
            readers: readers(&g, &h),
            ..queue(1, 1, &[])
        };
        let events = ledger.shard(S(20), shard(20, "t", after), &mut wrong);
        let [Event::Forgotten { groups, .. }] = &events[..] else {
            panic!("{events:?}")
        };
        groups.clone()
    };
    assert_eq!(taken(reader(1, &[]), reader(0, &[])), ["h"]);
    assert_eq!(taken(reader(0, &[0]), reader(0, &[])), ["h"]);
    assert!(taken(reader(0, &[0]), reader(1, &[])).is_empty());
}

#[test]
fn a_copy_that_is_left_still_has_to_come() {
    let (mut ledger, mut wrong) = (ledger(), Vec::new());
    let both = queue(0, 2, &[(0, row("t/1", 1, 1)), (1, row("t/1", 9, 9))]);
    ledger.shard(S(9), shard(9, "t", both), &mut wrong);
    let groups = |events: Vec<Event>| match &events[..] {
        [Event::Forgotten { groups, .. }] => groups.len(),
        _ => panic!("{events:?}"),
    };
    let first = ledger.shard(S(12), shard(12, "t", queue(1, 2, &[])), &mut wrong);
    assert_eq!(groups(first), 0);
    let second = ledger.shard(S(20), shard(20, "t", queue(2, 2, &[])), &mut wrong);
    assert_eq!(groups(second), 2);
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn what_is_in_flight_and_gone_and_a_queue_that_goes_back_are_found() {
    let judged = |look: QueueLook| {
        let (mut ledger, mut wrong) = (ledger(), Vec::new());
        let before = queue(0, 1, &[(0, row("t/1", 1, 1))]);
        ledger.shard(S(1), shard(1, "t", before), &mut wrong);
        ledger.shard(S(2), shard(2, "t", look), &mut wrong);
        wrong.len()
    };
    let with = |lost: &[u64]| QueueLook {
        readers: BTreeMap::from([(
            "g".to_owned(),
            Reader {
                lost: lost.iter().copied().collect(),
                ..reader(1, &[0])
            },
        )]),
        ..queue(0, 1, &[])
    };
    assert_eq!(judged(with(&[])), 0);
    assert_eq!(judged(with(&[0])), 1);
    assert_eq!(judged(queue(0, 0, &[])), 1);
}

#[test]
fn what_came_later_cannot_have_been_stored_before() {
    let judged = |stored| {
        let (mut ledger, mut wrong) = (ledger(), Vec::new());
        ledger.shard(
            S(5),
            shard(5, "t", queue(0, 1, &[(0, row("t/1", 5, 1))])),
            &mut wrong,
        );
        let later = queue(0, 2, &[(1, row("t/2", stored, 2))]);
        ledger.shard(S(9), shard(9, "t", later), &mut wrong);
        wrong.len()
    };
    assert_eq!((judged(4), judged(5), judged(9), judged(10)), (1, 0, 0, 1));
}

/// Looks once a second until `until` at a calm cluster, with a message that was stored at 5 and stays.
fn stays(segments: std::ops::Range<u64>, until: u64, now: fn(u64) -> u64) -> (usize, bool) {
    let (mut ledger, mut wrong) = (ledger(), Vec::new());
    ledger.calm(S(1));
    let stored = queue(0, 1, &[(0, row("t/1", 5, 150))]);
    ledger.shard(S(5), shard(5, "t", stored), &mut wrong);
    for at in 5..=until {
        ledger.nodes(S(at), node(segments.clone(), now(at)), &mut wrong);
        ledger.judge_age(S(at), &mut wrong);
    }
    (wrong.len(), ledger.settled())
}

#[test]
fn what_is_past_retention_has_to_go_while_the_log_has_a_segment_to_give_back() {
    let last_good = 5 + 11 + GONE_WITHIN.as_secs();
    assert_eq!(stays(0..2, last_good, |at| at), (0, false));
    assert_eq!(stays(0..2, last_good + 1, |at| at).0, 1);
    assert_eq!(stays(0..1, last_good + 99, |at| at), (0, true));
    // Also if the shard's clock stands still.
    assert_eq!(stays(0..2, last_good, |_| 5).0, 0);
    assert_eq!(stays(0..2, last_good + 1, |_| 5).0, 1);
}

#[test]
fn a_log_has_to_fit_again() {
    let judged = |segments: std::ops::Range<u64>, displaced_bytes, until: u64| {
        let (mut ledger, mut wrong) = (ledger(), Vec::new());
        ledger.calm(S(1));
        for at in 1..=until {
            let mut nodes = node(segments.clone(), at);
            nodes.get_mut(&1).unwrap().displaced_bytes = displaced_bytes;
            ledger.nodes(S(at), nodes, &mut wrong);
            ledger.judge_age(S(at), &mut wrong);
        }
        (wrong.len(), ledger.settled())
    };
    let last_good = 1 + FITS_WITHIN.as_secs();
    // Half of the three segments that may stay beside the next one.
    assert_eq!(judged(0..9, 150, last_good), (0, false));
    assert_eq!(judged(0..9, 150, last_good + 1).0, 1);
    assert_eq!(judged(0..9, 151, 999), (0, true));
    assert_eq!(judged(0..5, 0, last_good), (0, false));
    assert_eq!(judged(0..4, 0, 999), (0, true));
}

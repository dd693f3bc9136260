//! Append.

use flotilla_proto::record::StartAt;
use queue_core::{Effect, Outcome, QueueId, Reply, limits::DEDUP_WINDOW_MS};

use crate::support::{DLQ, G, Q, Q_OTHER, Q_TWIN, START_MS, Shard, append};

#[test]
fn offsets_are_dense_from_zero_in_each_queue() {
    let mut shard = Shard::new();
    assert_eq!(
        [shard.append(Q, "a"), shard.append(Q, "b")],
        [(Q, 0, false), (Q, 1, false)]
    );
    assert_eq!(shard.append(Q_TWIN, "c"), (Q_TWIN, 0, false));
    assert_eq!(shard.append(Q, "d"), (Q, 2, false));
    assert_eq!(shard.entry_of(Q, 2), Some(4));
    assert_eq!(shard.entry_of(Q, 3), None);
}

#[test]
fn waiters_are_told() {
    let mut shard = Shard::new();
    let queue = QueueId(Q);
    let reply = Reply::Appended {
        queue,
        offset: 0,
        duplicate: false,
    };
    assert_eq!(
        shard.outcome(append(Q, "a")),
        Outcome {
            reply,
            effects: vec![Effect::Appended { queue }]
        }
    );
    let reply = Reply::Appended {
        queue,
        offset: 0,
        duplicate: true,
    };
    assert_eq!(
        shard.outcome(append(Q, "a")),
        Outcome {
            reply,
            effects: vec![]
        }
    );
}

#[test]
fn a_retry_within_the_window_is_stored_once() {
    let mut shard = Shard::new();
    assert_eq!(shard.append(Q, "a"), (Q, 0, false));
    shard.pass(DEDUP_WINDOW_MS - 1);
    assert_eq!(shard.append(Q, "a"), (Q, 0, true));
    assert_eq!(shard.next(Q), 1);
}

#[test]
fn a_retry_does_not_prolong_the_window() {
    let mut shard = Shard::new();
    shard.append(Q, "a");
    shard.pass(DEDUP_WINDOW_MS - 1);
    assert!(shard.append(Q, "a").2);
    shard.pass(1);
    assert!(!shard.append(Q, "a").2);
}

#[test]
fn after_the_window_it_is_stored_again() {
    let mut shard = Shard::new();
    shard.append(Q, "a");
    shard.pass(DEDUP_WINDOW_MS);
    assert_eq!(shard.append(Q, "a"), (Q, 1, false));
    assert_eq!(shard.append(Q, "a"), (Q, 1, true));
}

#[test]
fn a_retry_to_another_queue_of_the_topic_finds_the_first_one() {
    let mut shard = Shard::new();
    shard.append(Q, "z");
    shard.append(Q, "a");
    assert_eq!(shard.append(Q_TWIN, "a"), (Q, 1, true));
}

#[test]
fn an_id_of_another_topic_is_no_retry() {
    let mut shard = Shard::new();
    shard.append(Q, "a");
    assert_eq!(shard.append(Q_OTHER, "a"), (Q_OTHER, 0, false));
}

#[test]
fn a_retry_is_known_after_a_restart() {
    let mut shard = Shard::new();
    shard.append(Q, "a");
    shard.core = queue_core::Core::load(&shard.kv).unwrap();
    assert_eq!(shard.append(Q, "a"), (Q, 0, true));
}

#[test]
fn a_retry_of_a_trimmed_message_is_still_a_retry() {
    let mut shard = Shard::new();
    shard.append(Q, "a");
    shard.trim(Q, 1, 9);
    assert_eq!(shard.append(Q, "a"), (Q, 0, true));
}

#[test]
fn ids_past_the_window_are_forgotten() {
    let mut shard = Shard::new();
    shard.fill(Q, 9);
    let ids = |shard: &Shard| shard.kv.0.keys().filter(|key| key[0] == b'd').count();
    assert_eq!(ids(&shard), 9);
    shard.pass(DEDUP_WINDOW_MS);
    shard.fill(Q, 3);
    assert_eq!(
        ids(&shard),
        3,
        "a few with each append, until only new ones are left"
    );
}

#[test]
fn an_append_does_not_move_a_cursor() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 3);
    let view = shard.view(G, Q);
    assert_eq!((view.cursor, view.ready), (0, 3));
}

#[test]
fn a_leader_with_a_slow_clock_does_not_turn_time_back() {
    let mut shard = Shard::new();
    shard.fill(Q, 1);
    shard.now_ms -= 500;
    shard.fill(Q, 1);
    let stored = shard.core.locate(&shard.kv, QueueId(Q), 1).unwrap().unwrap();
    assert_eq!((shard.core.now_ms(), stored.time_ms), (START_MS, START_MS));
}

#[test]
fn messages_are_dated_by_the_wall_clock_which_never_dates_one_before_its_predecessor() {
    let mut shard = Shard::new();
    let dates = |shard: &Shard, queue: u64, offset| {
        let stored = shard.core.locate(&shard.kv, QueueId(queue), offset).unwrap();
        stored.unwrap().stored_ms
    };
    for (wall_ms, queue, offset, date) in [
        (7_000, Q, 0, 7_000),
        (9_000, Q, 1, 9_000),
        (8_000, Q, 2, 9_000),
        (8_000, Q_OTHER, 0, 8_000),
        (9_001, Q, 3, 9_001),
    ] {
        shard.wall_ms = wall_ms;
        shard.fill(queue, 1);
        assert_eq!(dates(&shard, queue, offset), date);
    }
}

#[test]
fn the_end_of_time_is_survived() {
    let mut shard = Shard::new();
    shard.subscribe(G, Q, StartAt::First);
    shard.append(Q, "early");
    shard.now_ms = u64::MAX;
    assert_eq!(shard.append(Q, "a"), (Q, 1, false));
    assert_eq!(shard.append(Q, "a"), (Q, 1, true));
    assert_eq!(shard.next(DLQ), 0);
}

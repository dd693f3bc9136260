//! Configure: subscriptions, dropped queues, dropped consumer groups.

use std::cell::Cell;

use bytes::Bytes;
use flotilla_proto::record::{
    Backoff, Command, Configure, DropGroup, DropQueue, StartAt, Subscribe, command, configure::What,
};
use queue_core::{AckResult, Context, Fault, GroupId, KeyValue, QueueId, Refusal, Reply, limits::MAX_FORGET};

use crate::support::{
    DLQ, G, G_OTHER, LEASE_MS, Map, Q, Q_OTHER, Q_TWIN, START_MS, Shard, configure, offsets, place,
    subscription, trim,
};

#[test]
fn a_consumer_group_starts_at_the_first_or_after_the_last_message() {
    let mut shard = Shard::new();
    shard.fill(Q, 2);
    shard.subscribe(G, Q, StartAt::First);
    shard.subscribe(G_OTHER, Q, StartAt::Last);
    shard.fill(Q, 1);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 5)), [0, 1, 2]);
    assert_eq!(offsets(&shard.deliver(G_OTHER, Q, 9, 5)), [2]);
}

#[test]
fn a_consumer_group_may_come_before_the_first_message() {
    let mut shard = Shard::new();
    shard.subscribe(G, Q, StartAt::Last);
    shard.fill(Q, 1);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 5)), [0]);
}

#[test]
fn subscribing_again_changes_the_rules_and_nothing_else() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 2);
    shard.deliver(G, Q, 1, 5);
    let before = shard.view(G, Q);
    let changed = Subscribe {
        backoff: None,
        ..subscription(G, Q, StartAt::Last, 1, Q_OTHER)
    };
    shard.apply(configure(What::Subscribe(changed)));
    let after = shard.view(G, Q);
    assert_eq!(
        (after.max_attempts, after.dead_letter_queue, &after.backoff),
        (1, QueueId(Q_OTHER), &None)
    );
    assert_eq!(
        (before.cursor, before.leased, before.ready),
        (after.cursor, after.leased, after.ready)
    );
    shard.pass(LEASE_MS);
    assert_eq!(
        shard.tick(9),
        (1, 1, false),
        "the new rules hold for what is in flight"
    );
    assert_eq!(shard.next(Q_OTHER), 1);
}

#[test]
fn rules_are_the_consumer_groups_on_all_its_queues() {
    let mut shard = Shard::subscribed();
    shard.subscribe(G, Q_OTHER, StartAt::First);
    let subscribe = |version, max_attempts| Subscribe {
        version,
        ..subscription(G, Q_OTHER, StartAt::First, max_attempts, DLQ)
    };
    shard.apply(configure(What::Subscribe(subscribe(2, 7))));
    assert_eq!(shard.view(G, Q).max_attempts, 7);
    assert!(shard.core.has_begun(GroupId(G), QueueId(Q), 2, QueueId(DLQ)));
    assert!(!shard.core.has_begun(GroupId(G), QueueId(Q), 3, QueueId(DLQ)));
    assert!(!shard.core.has_begun(GroupId(G), QueueId(Q), 2, QueueId(Q_TWIN)));
    assert!(!shard.core.has_begun(GroupId(G), QueueId(Q_TWIN), 2, QueueId(DLQ)));
}

#[test]
fn older_rules_change_nothing_and_are_not_asked_for_again() {
    let mut shard = Shard::new();
    let subscribe = |version, max_attempts| Subscribe {
        version,
        ..subscription(G, Q, StartAt::First, max_attempts, DLQ)
    };
    shard.apply(configure(What::Subscribe(subscribe(2, 7))));
    shard.apply(configure(What::Subscribe(subscribe(1, 3))));
    assert_eq!(shard.view(G, Q).max_attempts, 7);
    assert!(shard.core.has_begun(GroupId(G), QueueId(Q), 1, QueueId(DLQ)));
    shard.apply(configure(What::Subscribe(subscribe(2, 5))));
    assert_eq!(
        shard.view(G, Q).max_attempts,
        5,
        "the same version may name another dead-letter queue"
    );
}

/// Found by reading: an empty backoff was stored as none, and the loaded state differed.
#[test]
fn a_backoff_without_a_strategy_is_none() {
    let mut shard = Shard::new();
    let empty = Some(Backoff { strategy: None });
    let subscribe = Subscribe {
        backoff: empty,
        ..subscription(G, Q, StartAt::First, 3, DLQ)
    };
    shard.apply(configure(What::Subscribe(subscribe)));
    assert_eq!(shard.view(G, Q).backoff, None);
}

#[test]
fn a_command_without_content_is_malformed() {
    let mut shard = Shard::new();
    let malformed = Reply::Refused(Refusal::Malformed);
    assert_eq!(shard.apply(Command { command: None }), malformed);
    let empty = Command {
        command: Some(command::Command::Configure(Configure { what: None })),
    };
    assert_eq!(shard.apply(empty), malformed);
}

#[test]
fn a_dropped_queue_leaves_only_the_message_ids() {
    let mut shard = Shard::subscribed();
    shard.subscribe(G_OTHER, Q, StartAt::First);
    shard.fill(Q, 5);
    shard.deliver(G, Q, 3, 5);
    shard.trim(Q, 2, 99);
    shard.copy_forward(Q, 3);
    assert!(!shard.drop_queue(Q, 99));
    let kinds: Vec<u8> = shard
        .kv
        .0
        .keys()
        .map(|key| key[0])
        .filter(|kind| !matches!(kind, b'd' | b'i'))
        .collect();
    assert_eq!(kinds, b"bn", "and the time, and that nothing is displaced");
    assert_eq!(
        shard.core.queues().count() + shard.core.subscriptions().count(),
        0
    );
    assert_eq!((shard.oldest(), shard.core.next_deadline()), (None, None));
}

#[test]
fn a_queue_is_dropped_in_small_steps() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 3);
    shard.deliver(G, Q, 2, 5);
    // Two in flight, the subscription, three messages, the queue itself.
    let steps = (0..20).take_while(|_| shard.drop_queue(Q, 1)).count();
    assert_eq!(steps, 6);
    assert!(!shard.drop_queue(Q, 1), "once more is no harm");
}

/// Counts what is asked of the state, and how many rows came back.
struct Counting<'a> {
    map: &'a mut Map,
    asked: Cell<usize>,
    rows: Cell<usize>,
    written: usize,
}

impl KeyValue for Counting<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.asked.set(self.asked.get() + 1);
        self.map.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        self.asked.set(self.asked.get() + 1);
        let found = self.map.scan(from, to, limit)?;
        self.rows.set(self.rows.get() + found.len());
        Ok(found)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.written += 1;
        self.map.put(key, value)
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), Fault> {
        self.written += 1;
        self.map.delete(key)
    }
}

/// Found by reading: every message cost three look-ups and two writes, from the queue's very first row on.
#[test]
fn one_command_that_drops_or_trims_is_bounded_and_reads_what_it_removes_once() {
    let mut shard = Shard::new();
    shard.careful = false;
    shard.fill(Q, 10_000);
    let limit = u32::MAX;
    for command in [
        trim(Q, 9_000, limit),
        configure(What::DropQueue(DropQueue {
            queue: Q,
            limit,
            deletions: 0,
        })),
    ] {
        let mut counting = Counting {
            map: &mut shard.kv,
            asked: Cell::new(0),
            rows: Cell::new(0),
            written: 0,
        };
        let context = Context {
            position: place(20_000),
            time_ms: START_MS,
            wall_ms: 0,
        };
        shard.core.apply(&mut counting, context, &command).unwrap();
        let (asked, rows) = (counting.asked.get(), counting.rows.get());
        assert!(asked <= 4, "{asked} look-ups");
        assert!(rows <= MAX_FORGET as usize + 100, "{rows} rows read");
        assert!(
            counting.written <= MAX_FORGET as usize + 2,
            "{} writes",
            counting.written
        );
        shard.core.check(&shard.kv).unwrap();
    }
    assert_eq!(
        shard.core.queue(QueueId(Q)).unwrap().first,
        2 * u64::from(MAX_FORGET)
    );
}

#[test]
fn what_is_known_of_a_topic_and_of_a_consumer_group_is_found_without_looking_at_others() {
    let mut shard = Shard::subscribed();
    shard.subscribe(G_OTHER, Q_OTHER, StartAt::First);
    shard.fill(Q_TWIN, 1);
    let queues: Vec<_> = shard.core.queues_of(1).into_iter().collect();
    assert_eq!(queues, [(QueueId(Q), false), (QueueId(Q_TWIN), true)]);
    assert!(shard.core.queues_of(3).is_empty());
    assert_eq!(
        shard.core.queues_of_group(GroupId(G_OTHER)).collect::<Vec<_>>(),
        [QueueId(Q_OTHER)]
    );
    assert_eq!(shard.core.topics_from(0, 9), [1, 2]);
    assert_eq!(shard.core.topics_from(0, 1), [1]);
    assert_eq!(shard.core.topics_from(2, 9), [2]);
    assert_eq!(
        shard.core.groups_from(GroupId(0), 9),
        [GroupId(G), GroupId(G_OTHER)]
    );
    assert_eq!(shard.core.groups_from(GroupId(2), 9), [GroupId(G_OTHER)]);
    shard.drop_group(G_OTHER, 9);
    assert_eq!(shard.core.groups_from(GroupId(0), 9), [GroupId(G)]);
    assert_eq!(shard.core.topics_from(0, 9), [1]);
}

#[test]
fn nothing_happens_without_a_budget() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    shard.deliver(G, Q, 1, 5);
    let before = shard.kv.clone();
    assert!(shard.drop_queue(Q, 0));
    assert!(shard.drop_group(G, 0));
    assert!(!shard.drop_group(99, 0));
    assert_eq!(shard.kv, before);
}

#[test]
fn a_half_dropped_queue_still_works() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 4);
    shard.deliver(G, Q, 1, 5);
    assert!(shard.drop_queue(Q, 4));
    assert_eq!(shard.core.queue(QueueId(Q)).unwrap().first, 2);
    assert_eq!(shard.ack(G, Q, &[(0, 5)]), [AckResult::Stale]);
    shard.subscribe(G, Q, StartAt::First);
    shard.fill(Q, 1);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 6)), [2, 3, 4]);
    assert!(!shard.drop_queue(Q, 99));
}

#[test]
fn a_dropped_consumer_group_is_gone_from_all_queues_and_no_other_is() {
    let mut shard = Shard::subscribed();
    shard.subscribe(G, Q_OTHER, StartAt::First);
    shard.subscribe(G_OTHER, Q, StartAt::First);
    shard.fill(Q, 2);
    shard.deliver(G, Q, 2, 5);
    shard.deliver(G_OTHER, Q, 1, 6);
    // Two in flight, and two subscriptions.
    let steps = (0..20).take_while(|_| shard.drop_group(G, 1)).count();
    assert_eq!(steps, 3);
    let left: Vec<(GroupId, QueueId)> = shard
        .core
        .subscriptions()
        .map(|(group, queue, _)| (group, queue))
        .collect();
    assert_eq!(left, [(GroupId(G_OTHER), QueueId(Q))]);
    assert_eq!(shard.view(G_OTHER, Q).leased, 1);
}

/// Found by the simulator: everything came again to a consumer group that was deleted and dropped, from a leader that had not
/// heard of it.
#[test]
fn whoever_knows_of_fewer_deletions_lets_no_consumer_group_begin_once_more() {
    let known = |group, deletions| {
        configure(What::Subscribe(Subscribe {
            deletions,
            ..subscription(group, Q, StartAt::First, 16, 0)
        }))
    };
    let mut shard = Shard::new();
    shard.fill(Q, 2);
    let begun = Reply::Configured { more: false };
    assert_eq!(shard.apply(known(G, 4)), begun);
    let drop = DropGroup {
        group: G,
        limit: 99,
        deletions: 5,
    };
    assert_eq!(shard.apply(configure(What::DropGroup(drop))), begun);
    assert_eq!(shard.apply(known(G, 4)), Reply::Refused(Refusal::Behind));
    assert_eq!(shard.core.subscriptions().count(), 0);
    // A drop for an older deletion changes nothing of that, and others begin for whoever knows.
    let older = DropGroup { deletions: 3, ..drop };
    assert_eq!(shard.apply(configure(What::DropGroup(older))), begun);
    assert_eq!(shard.apply(known(G_OTHER, 4)), Reply::Refused(Refusal::Behind));
    assert_eq!(shard.apply(known(G_OTHER, 5)), begun);
}

#[test]
fn a_dropped_consumer_group_lets_trimmed_messages_go() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 1);
    shard.deliver(G, Q, 1, 5);
    shard.trim(Q, 1, 9);
    assert_eq!(shard.oldest(), Some(2));
    shard.drop_group(G, 9);
    assert_eq!((shard.entry_of(Q, 0), shard.oldest()), (None, None));
}

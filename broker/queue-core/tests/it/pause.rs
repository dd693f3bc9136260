//! Pause and resume: rules of a consumer group under which nothing is delivered to it.

use flotilla_proto::record::{StartAt, Subscribe, configure::What};
use queue_core::{AckResult, Effect, GroupId, Outcome, QueueId, Refusal, Reply, Selection};

use crate::support::{DLQ, G, LEASE_MS, Q, Q_TWIN, Shard, configure, offsets, subscription};

fn rules(version: u32, paused: bool, deletions: u64) -> Subscribe {
    Subscribe {
        version,
        paused,
        deletions,
        ..subscription(G, 0, StartAt::First, 3, DLQ)
    }
}

fn pause(shard: &mut Shard, version: u32, paused: bool) -> Outcome {
    shard.outcome(configure(What::Rules(rules(version, paused, 0))))
}

#[test]
fn nothing_is_delivered_to_a_paused_consumer_group_and_what_it_has_is_settled_as_ever() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 9);
    assert_eq!(offsets(&shard.deliver(G, Q, 3, 5)), [0, 1, 2]);
    pause(&mut shard, 2, true);
    assert!(shard.deliver(G, Q, 9, 6).is_empty());
    let chosen = shard.core.selectable(GroupId(G), QueueId(Q), u64::MAX, 9, 99);
    assert_eq!(chosen, Selection::default());
    assert_eq!(shard.ack(G, Q, &[(0, 5)]), [AckResult::Done]);
    // Leases end, and what is due waits for the consumer group.
    shard.pass(10 * LEASE_MS);
    shard.tick(9);
    let view = shard.view(G, Q);
    assert_eq!((view.leased, view.cursor), (0, 3));
    assert_eq!(shard.core.next_visible(GroupId(G), QueueId(Q)), None);
    pause(&mut shard, 3, false);
    shard.pass(60_000);
    assert_eq!(offsets(&shard.deliver(G, Q, 4, 7)), [1, 2, 3, 4]);
}

#[test]
fn whoever_waits_is_told_when_it_goes_on() {
    let mut shard = Shard::subscribed();
    shard.subscribe(G, Q_TWIN, StartAt::First);
    assert_eq!(pause(&mut shard, 2, true).effects, []);
    let effects = pause(&mut shard, 3, false).effects;
    let told: Vec<QueueId> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Visible {
                group: GroupId(G),
                queue,
                ..
            } => Some(*queue),
            _ => None,
        })
        .collect();
    let mut expected = [QueueId(Q), QueueId(Q_TWIN)];
    expected.sort();
    assert_eq!(told, expected);
    assert_eq!(pause(&mut shard, 4, false).effects, []);
}

#[test]
fn a_pause_that_comes_late_changes_nothing() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 3);
    pause(&mut shard, 3, false);
    pause(&mut shard, 2, true);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 5)), [0, 1, 2]);
}

#[test]
fn a_catalogue_that_does_not_know_of_the_pause_lets_nobody_begin() {
    let mut shard = Shard::new();
    shard.fill(Q, 3);
    shard.apply(configure(What::Rules(rules(2, true, 1))));
    let older = subscription(G, Q, StartAt::First, 3, DLQ);
    let behind = Reply::Refused(Refusal::Behind);
    assert_eq!(shard.apply(configure(What::Subscribe(older))), behind);
    let newer = Subscribe {
        queue: Q,
        ..rules(2, true, 1)
    };
    shard.apply(configure(What::Subscribe(newer)));
    assert!(shard.deliver(G, Q, 9, 5).is_empty());
}

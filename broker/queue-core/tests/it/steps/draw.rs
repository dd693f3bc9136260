//! How steps are drawn.

use flotilla_proto::record::{
    Backoff, CustomizedBackoff, DropGroup, DropQueue, ExponentialBackoff, Run, StartAt, Subscribe,
    backoff::Strategy as Rule,
};
use proptest::prelude::*;
use queue_core::{QueueId, limits::DEDUP_WINDOW_MS};

use super::{Act, Choice, Step};
use crate::support::{DLQ, G, Q, Q_OTHER, Q_TWIN};

fn queue() -> impl Strategy<Value = u64> {
    prop_oneof![10 => Just(Q), 1 => Just(Q_TWIN), 1 => Just(Q_OTHER), 2 => Just(DLQ)]
}

fn group() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(1), 1 => Just(2)]
}

fn nonce() -> impl Strategy<Value = u64> {
    0..6u64
}

/// What a catalogue knows of: mostly one that is not behind.
fn deletions() -> impl Strategy<Value = u64> {
    prop_oneof![5 => Just(3), 1 => 0..3u64, 1 => 4..6u64]
}

fn subscribe() -> impl Strategy<Value = Act> {
    let dead_letter_queue = prop_oneof![6 => Just(DLQ), 1 => Just(0), 1 => queue()];
    let start_at =
        prop_oneof![3 => Just(StartAt::First as i32), 1 => Just(StartAt::Last as i32), 1 => Just(9)];
    let rule = prop_oneof![
        Just(None),
        Just(Some(Backoff { strategy: None })),
        prop::collection::vec(0..3_000u64, 0..4).prop_map(|next_ms| Some(Backoff {
            strategy: Some(Rule::Customized(CustomizedBackoff { next_ms }))
        })),
        (0..3_000u64, 0..9_000u64, 0..400u32).prop_map(|(initial_ms, max_ms, multiplier_percent)| {
            let rule = ExponentialBackoff {
                initial_ms,
                max_ms,
                multiplier_percent,
            };
            Some(Backoff {
                strategy: Some(Rule::Exponential(rule)),
            })
        }),
    ];
    (
        group(),
        queue(),
        start_at,
        0..6u32,
        rule,
        dead_letter_queue,
        deletions(),
        (0..3u32, prop::bool::weighted(0.03), any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |(
                group,
                queue,
                start_at,
                max_attempts,
                backoff,
                dead_letter_queue,
                deletions,
                (version, paused, fifo, park),
            )| {
                Act::Subscribe(Subscribe {
                    group,
                    queue,
                    start_at,
                    max_attempts,
                    backoff,
                    dead_letter_queue,
                    deletions,
                    version,
                    fifo,
                    paused,
                    park,
                })
            },
        )
}

/// The same for all queues of the consumer group, none of which begins by it.
fn as_rules(what: Act) -> Act {
    match what {
        Act::Subscribe(rules) => Act::Rules(rules),
        other => other,
    }
}

fn deliver() -> impl Strategy<Value = Act> {
    let choice = prop_oneof![
        3 => Just(Choice::InFlight),
        1 => prop::collection::vec(0..12u64, 0..5).prop_map(Choice::Offsets),
    ];
    let cursor_off = prop_oneof![6 => Just(0i8), 1 => -2..3i8];
    let lease_ms = prop_oneof![5 => 0..3_000i64, 1 => -2_000..0i64];
    let run = (0..6u32, prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    let run = run.prop_map(|(count, filtered, blocked)| Run {
        count,
        filtered,
        blocked,
    });
    let in_order = (0..9usize, prop::collection::vec(prop::bool::weighted(0.2), 0..9));
    let request = (0..3u64, prop::bool::weighted(0.15));
    (
        group(),
        queue(),
        choice,
        cursor_off,
        prop::collection::vec(run, 0..4),
        lease_ms,
        nonce(),
        any::<bool>(),
        (request, prop::option::weighted(0.8, in_order)),
    )
        .prop_map(
            |(group, queue, choice, cursor_off, runs, lease_ms, nonce, auto_renew, (request, in_order))| {
                Act::Deliver {
                    group,
                    queue,
                    choice,
                    cursor_off,
                    runs,
                    lease_ms,
                    nonce,
                    auto_renew,
                    request: request.0,
                    again: request.1,
                    in_order,
                }
            },
        )
}

fn released() -> impl Strategy<Value = Act> {
    let at_ms = prop_oneof![2 => Just(None), 3 => (-500..3_000i64).prop_map(Some)];
    (
        group(),
        queue(),
        0..9usize,
        prop::bool::weighted(0.15),
        0..6i32,
        at_ms,
        nonce(),
    )
        .prop_map(|(group, queue, pick, stale, action, at_ms, nonce)| Act::Release {
            group,
            queue,
            pick,
            stale,
            action,
            at_ms,
            nonce,
        })
}

/// Of a push consumer's leases, as the leader has them changed.
fn prolonged() -> impl Strategy<Value = Act> {
    // As `fit` names them.
    let clients = || prop::collection::vec(100..106u64, 0..4);
    let written = (
        group(),
        queue(),
        0..9usize,
        prop::bool::weighted(0.1),
        -500..3_000i64,
    );
    let times = (-500..3_000i64, -500..6_000i64, -9_000..500i64);
    prop_oneof![
        3 => written.prop_map(|(group, queue, pick, stale, until_ms)| Act::Written {
            group,
            queue,
            pick,
            stale,
            until_ms,
        }),
        3 => (clients(), times, 0..3u32).prop_map(|(clients, (before_ms, until_ms, since_ms), limit)| Act::Renew {
            clients,
            before_ms,
            until_ms,
            since_ms,
            limit,
        }),
        1 => (clients(), -500..2_000i64, 0..2u32)
            .prop_map(|(clients, at_ms, limit)| Act::Depart { clients, at_ms, limit }),
    ]
}

/// What becomes of what waits.
fn waiting() -> impl Strategy<Value = Act> {
    let wrong = prop::option::weighted(0.3, (queue(), 0..5u64));
    prop_oneof![
        4 => (0..4usize, wrong).prop_map(|(limit, wrong)| Act::Fire { limit, wrong }),
        3 => (queue(), any::<u64>()).prop_map(|(queue, pick)| Act::Recall { queue, pick }),
        2 => (queue(), any::<u64>(), -500..4_000i64)
            .prop_map(|(queue, pick, due_ms)| Act::Retime { queue, pick, due_ms }),
    ]
}

/// Mostly that of dead letters.
fn queue_of_letters() -> impl Strategy<Value = u64> {
    prop_oneof![8 => Just(DLQ), 1 => queue()]
}

/// What becomes of transactions.
fn half() -> impl Strategy<Value = Act> {
    let wrong = prop::option::weighted(0.3, (queue(), 0..5u64));
    prop_oneof![
        4 => (queue(), any::<u64>(), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(queue, pick, commits, wrong)| Act::End { queue, pick, commits, wrong }),
        3 => (0..4usize, wrong, -500..4_000i64, prop::bool::weighted(0.3)).prop_map(
            |(limit, wrong, next_ms, gives_up)| Act::CheckBack { limit, wrong, next_ms, gives_up }
        ),
    ]
}

/// A queue, or where messages wait for it.
fn place() -> impl Strategy<Value = u64> {
    (queue(), prop::bool::weighted(0.3)).prop_map(|(queue, waits)| match waits {
        true => QueueId(queue).waiting_room().0,
        false => queue,
    })
}

fn what() -> impl Strategy<Value = Act> {
    let picks = prop::collection::vec((0..9usize, prop::bool::weighted(0.2)), 0..4);
    prop_oneof![
        24 => (queue(), any::<u8>(), 0..4u64, prop::option::weighted(0.3, -500..4_000i64), prop::bool::weighted(0.15))
            .prop_map(|(queue, id, message_group, due_ms, half)| Act::Append { queue, id, message_group, due_ms, half }),
        9 => waiting(),
        7 => half(),
        5 => subscribe(),
        1 => subscribe().prop_map(as_rules),
        24 => deliver(),
        8 => (group(), queue(), picks).prop_map(|(group, queue, picks)| Act::Ack { group, queue, picks }),
        12 => released(),
        9 => prolonged(),
        14 => (0..6usize, prop::option::weighted(0.2, (group(), queue(), 0..9u64)), prop::bool::weighted(0.1))
            .prop_map(|(limit, wrong, lie)| Act::Tick { limit, wrong, lie }),
        3 => (queue(), 0..12u64, 0..6u32).prop_map(|(queue, first, limit)| Act::Trim { queue, first, limit }),
        3 => (group(), queue(), 0..12u64, 0..4u32, 0..2u64, 0..2u64).prop_map(|(group, queue, to, limit, late, id)| {
            Act::Seek { group, queue, to, limit, late, id }
        }),
        4 => (place(), 0..9u64).prop_map(|(queue, offset)| Act::CopyForward { queue, offset }),
        1 => (queue(), 0..9u32, deletions()).prop_map(|(queue, limit, deletions)| {
            Act::DropQueue(DropQueue { queue, limit, deletions })
        }),
        1 => (group(), 0..6u32, deletions()).prop_map(|(group, limit, deletions)| {
            Act::DropGroup(DropGroup { group, limit, deletions })
        }),
        6 => (group(), queue_of_letters(), prop::collection::vec(0..9u64, 1..5), 0..3u64)
            .prop_map(|(group, queue, offsets, id)| Act::Redrive { group, queue, offsets, id }),
        6 => (group(), queue(), 0..9usize, prop::bool::weighted(0.1), 0..4i32)
            .prop_map(|(group, queue, pick, stale, action)| Act::Unpark { group, queue, pick, stale, action }),
        1 => Just(Act::Nothing),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let window = DEDUP_WINDOW_MS as i64;
    let clock_ms = prop_oneof![
        12 => 0..1_500i64,
        2 => -4_000..0i64,
        1 => window - 1..window + 2,
    ];
    let drawn = (prop::bool::weighted(0.3), clock_ms, 0..100u64, what());
    drawn.prop_map(|(same_entry, clock_ms, wall_ms, what)| Step {
        same_entry,
        clock_ms,
        wall_ms,
        what,
    })
}

/// Up to `most` steps. The first one often is a subscription where most happens.
pub(crate) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let started = (subscribe(), prop::bool::weighted(0.8));
    (started, prop::collection::vec(step(), 1..most)).prop_map(|((mut what, started), mut steps)| {
        if let (Act::Subscribe(subscribe), true) = (&mut what, started) {
            (subscribe.group, subscribe.queue) = (G, Q);
            steps.insert(
                0,
                Step {
                    same_entry: false,
                    clock_ms: 0,
                    wall_ms: 0,
                    what,
                },
            );
        }
        steps
    })
}

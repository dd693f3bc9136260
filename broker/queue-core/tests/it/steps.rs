//! Random logs. A step is drawn before the state is known; when its turn comes it is
//! turned into a command that fits the state well, or on purpose badly.

use flotilla_proto::record::{
    Ack, Backoff, Command, Configure, CustomizedBackoff, Deliver, Depart, DropGroup, DropQueue, Expiry,
    ExponentialBackoff, LeaseRef, Renew, Run, StartAt, Subscribe, Written, WrittenLeases,
    backoff::Strategy as Rule, command::Command as Kind, configure::What,
};
use proptest::prelude::*;
use queue_core::{Context, Position, limits::DEDUP_WINDOW_MS};

use crate::{
    model::Model,
    support::{
        DLQ, G, Q, Q_OTHER, Q_TWIN, START_MS, append, command, configure, copy_forward, release, seek, tick,
        trim,
    },
};

/// One command to be.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// The command stands in the same entry as the one before, so at the same time.
    pub(crate) same_entry: bool,
    pub(crate) clock_ms: i64,
    /// The leader's wall clock, which jumps as it likes.
    pub(crate) wall_ms: u64,
    pub(crate) what: Act,
}

/// What a step does. Numbers called `pick` choose among what there is.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    Append {
        queue: u64,
        id: u8,
    },
    Subscribe(Subscribe),
    Deliver {
        group: u32,
        queue: u64,
        choice: Choice,
        cursor_off: i8,
        runs: Vec<Run>,
        lease_ms: i64,
        nonce: u64,
        auto_renew: bool,
    },
    Ack {
        group: u32,
        queue: u64,
        picks: Vec<(usize, bool)>,
    },
    Release {
        group: u32,
        queue: u64,
        pick: usize,
        stale: bool,
        action: i32,
        at_ms: Option<i64>,
        nonce: u64,
    },
    /// Says that the answer to one delivery was written out.
    Written {
        group: u32,
        queue: u64,
        pick: usize,
        stale: bool,
        until_ms: i64,
    },
    /// Prolongs leases of some clients.
    Renew {
        clients: Vec<u64>,
        before_ms: i64,
        until_ms: i64,
        since_ms: i64,
        limit: u32,
    },
    Depart {
        clients: Vec<u64>,
        at_ms: i64,
        limit: u32,
    },
    Tick {
        limit: usize,
        /// What is named at last, whatever it is.
        wrong: Option<(u32, u64, u64)>,
        /// What becomes of the first is not what is said.
        lie: bool,
    },
    Trim {
        queue: u64,
        first: u64,
        limit: u32,
    },
    Seek {
        group: u32,
        queue: u64,
        to: u64,
        limit: u32,
        late: u64,
        id: u64,
    },
    CopyForward {
        queue: u64,
        offset: u64,
    },
    DropQueue(DropQueue),
    DropGroup(DropGroup),
    Nothing,
}

/// What a deliver command names for redelivery.
#[derive(Debug, Clone)]
pub(crate) enum Choice {
    /// What is in flight, due or not.
    InFlight,
    /// Anything, in any order.
    Offsets(Vec<u64>),
}

/// The leader's clock and the end of the log.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    clock_ms: u64,
    wall_ms: u64,
    position: Position,
}

impl Default for Cursor {
    fn default() -> Self {
        Self {
            clock_ms: START_MS,
            wall_ms: 0,
            position: Position {
                index: 0,
                frame_offset: 13,
                frame_len: 40,
            },
        }
    }
}

impl Cursor {
    /// The command and where it stands.
    pub(crate) fn next(&mut self, model: &Model, step: &Step) -> (Context, Command) {
        if step.same_entry && self.position.index > 0 {
            self.position.frame_offset += 44;
        } else {
            self.position.index += 1;
            self.position.frame_offset = 13;
            self.clock_ms = self.clock_ms.saturating_add_signed(step.clock_ms);
            self.wall_ms = step.wall_ms;
        }
        let context = Context {
            position: self.position,
            time_ms: self.clock_ms,
            wall_ms: self.wall_ms,
        };
        (context, fit(model, self.clock_ms.max(model.now), &step.what))
    }
}

fn fit(model: &Model, now: u64, what: &Act) -> Command {
    let in_flight = |group, queue| model.sub(group, queue).map_or(Vec::new(), |sub| sub.in_flight());
    let lease = |group, queue, pick: usize, stale: bool| {
        let all = in_flight(group, queue);
        let some = all.get(pick % all.len().max(1));
        let (offset, nonce) = some.map_or((pick as u64, 0), |view| (view.offset, view.nonce));
        (offset, nonce + u64::from(stale))
    };
    match what.clone() {
        Act::Append { queue, id } => append(queue, &id.to_string()),
        Act::Subscribe(subscribe) => configure(What::Subscribe(subscribe)),
        Act::Deliver {
            group,
            queue,
            choice,
            cursor_off,
            runs,
            lease_ms,
            nonce,
            auto_renew,
        } => {
            let cursor = model.sub(group, queue).map_or(0, |sub| sub.cursor() as u64);
            let redeliver = match choice {
                Choice::InFlight => in_flight(group, queue).iter().map(|view| view.offset).collect(),
                Choice::Offsets(offsets) => offsets,
            };
            command(Kind::Deliver(Deliver {
                group,
                queue,
                redeliver,
                first_new: cursor.saturating_add_signed(cursor_off.into()),
                new: runs,
                deadline_ms: now.saturating_add_signed(lease_ms),
                nonce,
                auto_renew,
                client: nonce + 100,
                filter: 0,
            }))
        }
        Act::Ack { group, queue, picks } => {
            let named = picks
                .into_iter()
                .map(|(pick, stale)| lease(group, queue, pick, stale));
            let leases = named.map(|(offset, nonce)| LeaseRef { offset, nonce }).collect();
            command(Kind::Ack(Ack { group, queue, leases }))
        }
        Act::Release {
            group,
            queue,
            pick,
            stale,
            action,
            at_ms,
            nonce,
        } => {
            let at_ms = at_ms.map(|ms| now.saturating_add_signed(ms));
            release(
                group,
                queue,
                lease(group, queue, pick, stale),
                action,
                at_ms,
                nonce,
            )
        }
        Act::Written {
            group,
            queue,
            pick,
            stale,
            until_ms,
        } => {
            let (offset, nonce) = lease(group, queue, pick, stale);
            let leases = WrittenLeases {
                group,
                queue,
                nonce,
                offsets: vec![offset, offset + 1],
            };
            command(Kind::Written(Written {
                leases: vec![leases],
                until_ms: now.saturating_add_signed(until_ms),
            }))
        }
        Act::Renew {
            clients,
            before_ms,
            until_ms,
            since_ms,
            limit,
        } => command(Kind::Renew(Renew {
            clients,
            before_ms: now.saturating_add_signed(before_ms),
            until_ms: now.saturating_add_signed(until_ms),
            since_ms: now.saturating_add_signed(since_ms),
            limit,
        })),
        Act::Depart {
            clients,
            at_ms,
            limit,
        } => command(Kind::Depart(Depart {
            clients,
            at_ms: now.saturating_add_signed(at_ms),
            limit,
        })),
        Act::Tick { limit, wrong, lie } => {
            let over = model.expiries(now).into_iter().map(|(_, expiry)| expiry);
            let wrong = wrong.map(|(group, queue, offset)| Expiry {
                group,
                queue,
                offset,
                exhausted: lie,
            });
            let mut expiries: Vec<Expiry> = over.take(limit).chain(wrong).collect();
            if let Some(first) = expiries.first_mut() {
                first.exhausted ^= lie;
            }
            tick(expiries)
        }
        Act::Trim { queue, first, limit } => trim(queue, first, limit),
        Act::Seek {
            group,
            queue,
            to,
            limit,
            late,
            id,
        } => {
            let epoch = model.sub(group, queue).map_or(0, |sub| sub.epoch);
            seek((group, queue, to, limit), epoch.saturating_sub(late), id)
        }
        Act::CopyForward { queue, offset } => copy_forward(queue, offset),
        Act::DropQueue(drop) => configure(What::DropQueue(drop)),
        Act::DropGroup(drop) => configure(What::DropGroup(drop)),
        Act::Nothing => command(Kind::Configure(Configure { what: None })),
    }
}

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
        0..3u32,
    )
        .prop_map(
            |(group, queue, start_at, max_attempts, backoff, dead_letter_queue, deletions, version)| {
                Act::Subscribe(Subscribe {
                    group,
                    queue,
                    start_at,
                    max_attempts,
                    backoff,
                    dead_letter_queue,
                    deletions,
                    version,
                })
            },
        )
}

fn deliver() -> impl Strategy<Value = Act> {
    let choice = prop_oneof![
        3 => Just(Choice::InFlight),
        1 => prop::collection::vec(0..12u64, 0..5).prop_map(Choice::Offsets),
    ];
    let cursor_off = prop_oneof![6 => Just(0i8), 1 => -2..3i8];
    let lease_ms = prop_oneof![5 => 0..3_000i64, 1 => -2_000..0i64];
    let run = (0..6u32, prop::bool::weighted(0.2)).prop_map(|(count, filtered)| Run { count, filtered });
    (
        group(),
        queue(),
        choice,
        cursor_off,
        prop::collection::vec(run, 0..4),
        lease_ms,
        nonce(),
        any::<bool>(),
    )
        .prop_map(
            |(group, queue, choice, cursor_off, runs, lease_ms, nonce, auto_renew)| Act::Deliver {
                group,
                queue,
                choice,
                cursor_off,
                runs,
                lease_ms,
                nonce,
                auto_renew,
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

fn what() -> impl Strategy<Value = Act> {
    let picks = prop::collection::vec((0..9usize, prop::bool::weighted(0.2)), 0..4);
    prop_oneof![
        24 => (queue(), any::<u8>()).prop_map(|(queue, id)| Act::Append { queue, id }),
        5 => subscribe(),
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
        4 => (queue(), 0..9u64).prop_map(|(queue, offset)| Act::CopyForward { queue, offset }),
        1 => (queue(), 0..9u32, deletions()).prop_map(|(queue, limit, deletions)| {
            Act::DropQueue(DropQueue { queue, limit, deletions })
        }),
        1 => (group(), 0..6u32, deletions()).prop_map(|(group, limit, deletions)| {
            Act::DropGroup(DropGroup { group, limit, deletions })
        }),
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

//! Random logs. A step is drawn before the state is known; when its turn comes it is
//! turned into a command that fits the state well, or on purpose badly.

use flotilla_proto::record::{
    Ack, Command, Configure, Deliver, Depart, DropGroup, DropQueue, Expiry, LeaseRef, Redrive, Renew, Run,
    Subscribe, Timer, Unpark, Written, WrittenLeases, command::Command as Kind, configure::What,
};
use queue_core::{Context, InOrder, Position, Source};

use crate::{
    model::Model,
    support::{
        START_MS, append_as, command, configure, copy_forward, fire, recall, release, retime, seek, tick,
        trim,
    },
    transaction::{append_half, check_back, end, give_up},
};

mod draw;

pub(crate) use draw::steps;

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
        message_group: u64,
        /// It waits.
        due_ms: Option<i64>,
        half: bool,
    },
    End {
        queue: u64,
        pick: u64,
        commits: bool,
        /// Its id is another's.
        wrong: bool,
    },
    /// Half messages are checked back, or given up.
    CheckBack {
        limit: usize,
        wrong: Option<(u64, u64)>,
        next_ms: i64,
        gives_up: bool,
    },
    Fire {
        limit: usize,
        /// What is named at last, whatever it is.
        wrong: Option<(u64, u64)>,
    },
    Recall {
        queue: u64,
        pick: u64,
    },
    Retime {
        queue: u64,
        pick: u64,
        due_ms: i64,
    },
    Subscribe(Subscribe),
    Rules(Subscribe),
    Deliver {
        group: u32,
        queue: u64,
        choice: Choice,
        cursor_off: i8,
        runs: Vec<Run>,
        lease_ms: i64,
        nonce: u64,
        auto_renew: bool,
        request: u64,
        /// What the request has already is named.
        again: bool,
        /// Where order matters: so many of those whose turn it is are named, some of them passed over. Else as above.
        in_order: Option<(usize, Vec<bool>)>,
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
    Redrive {
        group: u32,
        queue: u64,
        offsets: Vec<u64>,
        id: u64,
    },
    /// Decides on one of those that are parked.
    Unpark {
        group: u32,
        queue: u64,
        pick: usize,
        stale: bool,
        action: i32,
    },
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
        Act::Append {
            queue,
            id,
            due_ms,
            half: true,
            ..
        } => append_half(
            queue,
            &id.to_string(),
            now.saturating_add_signed(due_ms.unwrap_or(0)),
        ),
        Act::Append {
            queue,
            id,
            message_group,
            due_ms,
            ..
        } => {
            let due_ms = due_ms.map_or(0, |ms| now.saturating_add_signed(ms));
            let message_group = if due_ms == 0 { message_group } else { 0 };
            append_as(queue, &id.to_string(), message_group, due_ms)
        }
        Act::Fire { limit, wrong } => {
            let wrong = wrong.map(|(queue, timer)| Timer { queue, timer });
            fire(model.due(now).into_iter().take(limit).chain(wrong).collect())
        }
        Act::End {
            queue,
            pick,
            commits,
            wrong,
        } => {
            let timer = pick % (model.numbers(queue) + 1);
            let id = model.id_of(queue, timer) + if wrong { "?" } else { "" };
            end(queue, timer, &id, commits)
        }
        Act::CheckBack {
            limit,
            wrong,
            next_ms,
            gives_up,
        } => {
            let wrong = wrong.map(|(queue, timer)| Timer { queue, timer });
            let due = model.due_checks(now).into_iter().take(limit);
            let halves = due.map(|due| due.half).chain(wrong).collect();
            match gives_up {
                true => give_up(halves),
                false => check_back(halves, now.saturating_add_signed(next_ms)),
            }
        }
        Act::Recall { queue, pick } => recall(queue, pick % (model.numbers(queue) + 1)),
        Act::Retime { queue, pick, due_ms } => {
            let timer = pick % (model.numbers(queue) + 1);
            retime(queue, timer, now.saturating_add_signed(due_ms))
        }
        Act::Subscribe(subscribe) => configure(What::Subscribe(subscribe)),
        Act::Rules(rules) => configure(What::Rules(rules)),
        Act::Deliver {
            group,
            queue,
            choice,
            cursor_off,
            runs,
            lease_ms,
            nonce,
            auto_renew,
            request,
            again,
            in_order,
        } => {
            let named = named_in_order(model, now, (group, queue), in_order);
            let cursor = model.sub(group, queue).map_or(0, |sub| sub.cursor() as u64);
            let redeliver = match choice {
                Choice::InFlight => in_flight(group, queue).iter().map(|view| view.offset).collect(),
                Choice::Offsets(offsets) => offsets,
            };
            let had = in_flight(group, queue).into_iter();
            let had = had.filter(|view| again && (view.offset % 3 == 0 || view.request == request));
            let choice = named.unwrap_or(Deliver {
                redeliver,
                new: runs,
                ..Deliver::default()
            });
            command(Kind::Deliver(Deliver {
                group,
                queue,
                first_new: cursor.saturating_add_signed(cursor_off.into()),
                deadline_ms: now.saturating_add_signed(lease_ms),
                nonce,
                auto_renew,
                client: nonce + 100,
                filter: 0,
                request,
                again: had.map(|view| view.offset).collect(),
                ..choice
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
        Act::Redrive {
            group,
            queue,
            offsets,
            id,
        } => command(Kind::Redrive(Redrive {
            group,
            queue,
            offsets,
            id,
        })),
        Act::Unpark {
            group,
            queue,
            pick,
            stale,
            action,
        } => {
            let all: Vec<_> = in_flight(group, queue)
                .into_iter()
                .filter(|view| view.parked)
                .collect();
            let some = all.get(pick % all.len().max(1));
            let (offset, nonce) = some.map_or((pick as u64, 0), |view| (view.offset, view.nonce));
            let nonce = nonce + u64::from(stale);
            command(Kind::Unpark(Unpark {
                group,
                queue,
                parked: vec![LeaseRef { offset, nonce }],
                action,
            }))
        }
        Act::Nothing => command(Kind::Configure(Configure { what: None })),
    }
}

/// The first so many of those whose turn it is, as a leader names them; the filter's word for each.
fn named_in_order(
    model: &Model,
    now: u64,
    (group, queue): (u32, u64),
    choice: Option<(usize, Vec<bool>)>,
) -> Option<Deliver> {
    let (max, filtered) = choice?;
    let sub = model.sub(group, queue).filter(|sub| sub.rules.fifo)?;
    let messages = model.queue(queue).map_or(&[][..], |queue| &queue.messages);
    let candidates = sub.in_order(messages, now, max, 12).candidates;
    let fates = filtered.into_iter().chain(std::iter::repeat(false));
    let named = candidates
        .into_iter()
        .zip(fates)
        .map(|(candidate, filtered)| match candidate.from {
            Source::Behind | Source::New => (candidate, filtered),
            Source::Waiting | Source::Blocked => (candidate, false),
        });
    Some(InOrder::name(named))
}

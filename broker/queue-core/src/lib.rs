//! The pure core of a data shard: queues, leases and the commands that change them.
//!
//! `Core::apply` is a function of the state and the log, and of nothing else: no clock,
//! no I/O, no randomness, no order of a hash map. Whatever is not deterministic was
//! decided by the leader and stands in the command; `apply` checks it against the state
//! and drops what no longer holds.

#[macro_use]
extern crate plant;

mod backoff;
mod check;
mod commands;
mod core;
mod dedup;
pub mod frame;
mod held;
mod history;
mod ids;
mod keys;
mod known;
mod kv;
mod lanes;
mod letter;
pub mod limits;
#[cfg(madsim)]
mod look;
mod message_group;
mod outcome;
mod parking;
mod places;
#[cfg(madsim)]
#[path = "../../../sim-tests/plant/bodies/queue_core.rs"]
mod planted;
mod queue;
mod rules;
mod subscription;
mod tag;
mod timers;
mod view;

pub use crate::{
    commands::check_back::DueCheck,
    core::{Context, Core},
    frame::FrameError,
    history::{Note, What},
    ids::{GroupId, Position, QueueId},
    kv::{Fault, KeyValue},
    lanes::{LaneOffer, in_turn, lane_of, priorities_of},
    letter::{Letter, LetterView},
    message_group::{Candidate, InOrder, Source},
    outcome::{
        AckResult, Effect, EndResult, Half, Lease, Outcome, RecallResult, RedriveResult, Refusal,
        ReleaseResult, Reply, UnparkResult,
    },
    parking::ParkedView,
    tag::{message_group_hash, message_id_hash, tag_hash},
    timers::{TimerView, Wait},
    view::{InFlightView, QueueView, Selection, Stored, SubscriptionView},
};

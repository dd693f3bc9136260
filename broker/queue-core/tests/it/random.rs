//! Random logs against the model, and replicas against each other.

use std::collections::BTreeSet;

use flotilla_proto::record::Command;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use queue_core::{
    AckResult, Context, Core, EndResult, Outcome, QueueId, RecallResult, RedriveResult, Refusal,
    ReleaseResult, Reply, UnparkResult,
};

use crate::{
    model::Model,
    steps::{Cursor, Step, steps},
    support::{Map, copy_forward, place, trim},
};

type Log = Vec<(Context, Command)>;

/// Runs the steps on a core and the model, and compares after each. Returns the log.
fn compare(steps: &[Step]) -> Result<Log, TestCaseError> {
    let (mut core, mut kv, mut model, mut cursor) = (
        Core::default(),
        Map::default(),
        Model::default(),
        Cursor::default(),
    );
    let mut log = Log::new();
    for step in steps {
        let (context, command) = cursor.next(&model, step);
        let reply = core
            .apply(&mut kv, context, &command)
            .expect("the map answers")
            .reply;
        prop_assert_eq!(reply, model.apply(context, &command), "{:?}", command);
        model
            .agrees(&core, &kv)
            .map_err(|error| TestCaseError::fail(format!("{error}\nafter {command:?}")))?;
        core.check(&kv)
            .map_err(|error| TestCaseError::fail(format!("{error}\nafter {command:?}")))?;
        prop_assert_eq!(&Core::load(&kv).expect("what was stored is read"), &core);
        log.push((context, command));
    }
    Ok(log)
}

/// The log that the steps make, and the model after it.
fn log_of(steps: &[Step]) -> (Log, Model) {
    let (mut model, mut cursor) = (Model::default(), Cursor::default());
    let mut log = Log::new();
    for step in steps {
        let (context, command) = cursor.next(&model, step);
        model.apply(context, &command);
        log.push((context, command));
    }
    (log, model)
}

/// Applies a log; gives the outcomes and the key-value state before each command, and after the last.
fn run(core: &mut Core, kv: &mut Map, log: &[(Context, Command)]) -> (Vec<Outcome>, Vec<Map>) {
    let mut states = vec![kv.clone()];
    let mut outcomes = Vec::new();
    for (context, command) in log {
        outcomes.push(core.apply(kv, *context, command).expect("the map answers"));
        states.push(kv.clone());
    }
    (outcomes, states)
}

/// So many, or as many times more as `PROPTEST_CASES` is above its default of 256.
fn cases(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: (default.cases * cases).div_ceil(256),
        failure_persistence: None,
        ..default
    }
}

/// What kinds of reply this one is.
fn kinds(reply: &Reply) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    let mut is = |what, yes| kinds.extend(Some(what).filter(|_| yes));
    match reply {
        Reply::Appended { queue, duplicate, .. } => {
            let waits = queue.waits_for().is_some();
            is("waits", waits && !duplicate);
            is("waits already", waits && *duplicate);
            is("appended", !waits && !duplicate);
            is("duplicate", !waits && *duplicate);
        }
        Reply::Fired { fired, forgotten } => {
            is("fired", *fired > 0);
            is("recall forgotten", *forgotten > 0);
        }
        Reply::Recalled(RecallResult::Done) => is("recalled", true),
        Reply::Recalled(RecallResult::Again) => is("recalled again", true),
        Reply::Recalled(RecallResult::Over) => is("recalled too late", true),
        Reply::Ended(EndResult::Done) => is("ended", true),
        Reply::Ended(EndResult::Again) => is("ended again", true),
        Reply::Ended(EndResult::Contrary) => is("ended otherwise", true),
        Reply::Ended(EndResult::Unknown) => is("no transaction", true),
        Reply::CheckedBack { halves } => {
            is("checked back", !halves.is_empty());
            is("checked back again", halves.iter().any(|half| half.checks > 1));
        }
        Reply::GivenUp(given_up) => is("transaction given up", *given_up > 0),
        Reply::Retimed(retimed) => is(if *retimed { "retimed" } else { "not retimed" }, true),
        Reply::Delivered { leases } => {
            is("nothing delivered", leases.is_empty());
            is("delivered", leases.iter().any(|lease| lease.attempt == 1));
            is("redelivered", leases.iter().any(|lease| lease.attempt > 1));
            is(
                "delivered a third time",
                leases.iter().any(|lease| lease.attempt > 2),
            );
        }
        Reply::Acked { results } => {
            is("acked", results.contains(&AckResult::Done));
            is("stale ack", results.contains(&AckResult::Stale));
        }
        Reply::Released(ReleaseResult::Done) => is("released", true),
        Reply::Released(ReleaseResult::Stale) => is("stale release", true),
        Reply::Released(ReleaseResult::DeadLettered) => is("given up", true),
        Reply::Released(ReleaseResult::Parked) => is("parked", true),
        Reply::Prolonged { changed, more } => {
            is("prolonged", *changed > 0);
            is("prolonged in part", *more);
        }
        Reply::Ticked {
            expired,
            dead_lettered,
            more,
        } => {
            is("expired", *expired > 0);
            is("expired for the last time", *dead_lettered > 0);
            is("more is over", *more);
        }
        Reply::Trimmed { first, more } => {
            is("trimmed", *first > 0);
            is("trimmed in part", *more);
        }
        Reply::Copied(copied) => is(if *copied { "copied" } else { "not copied" }, true),
        Reply::Sought { at } => is(if at.is_some() { "sought" } else { "seeks" }, true),
        Reply::Redriven { results } => {
            for (result, what) in [
                (RedriveResult::Done, "redriven"),
                (RedriveResult::Already, "redriven already"),
                (RedriveResult::Gone, "no dead letter"),
                (RedriveResult::AnotherGroup, "died elsewhere"),
                (RedriveResult::NoQueue, "nowhere to redrive to"),
                (RedriveResult::Seeks, "seeks meanwhile"),
                (RedriveResult::Comes, "comes anyway"),
                (RedriveResult::ReadSince, "read since"),
            ] {
                is(what, results.contains(&result));
            }
        }
        Reply::Unparked { results } => {
            is("decided", results.contains(&UnparkResult::Done));
            is("not parked", results.contains(&UnparkResult::Stale));
            is("cannot be skipped", results.contains(&UnparkResult::NoPlace));
        }
        Reply::Configured { more } => is(if *more { "dropped in part" } else { "configured" }, true),
        Reply::Refused(Refusal::NoSubscription) => is("no subscription", true),
        Reply::Refused(Refusal::Malformed) => is("malformed", true),
        Reply::Refused(Refusal::Outdated) => is("outdated", true),
        Reply::Refused(Refusal::Behind) => is("behind", true),
        Reply::Refused(Refusal::TooManyOpen) => is("too many open", true),
    }
    kinds
}

/// Random logs that never get anywhere would prove nothing.
#[test]
fn random_logs_reach_every_kind_of_reply() {
    let mut runner = TestRunner::deterministic();
    let mut reached = BTreeSet::new();
    for _ in 0..400 {
        let (log, _) = log_of(&steps(150).new_tree(&mut runner).expect("no filters").current());
        let (outcomes, _) = run(&mut Core::default(), &mut Map::default(), &log);
        reached.extend(outcomes.iter().flat_map(|outcome| kinds(&outcome.reply)));
    }
    assert_eq!(reached.len(), 54, "{reached:?}");
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn replies_and_state_are_those_of_the_model(steps in steps(80)) {
        compare(&steps)?;
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn a_snapshot_at_any_split_and_the_rest_of_the_log_are_the_whole_log(steps in steps(50)) {
        let (log, _) = log_of(&steps);
        let (mut core, mut kv) = (Core::default(), Map::default());
        let (outcomes, states) = run(&mut core, &mut kv, &log);
        for (split, state) in states.iter().enumerate() {
            let mut other_kv = state.clone();
            let mut other = Core::load(&other_kv).expect("what was stored is read");
            let (rest, _) = run(&mut other, &mut other_kv, &log[split..]);
            prop_assert_eq!(&rest, &outcomes[split..]);
            prop_assert_eq!(&other, &core);
            prop_assert_eq!(&other_kv, &kv);
        }
    }

    #[test]
    fn two_replicas_have_the_same_bytes_although_one_restarts_all_the_time(steps in steps(200)) {
        let (log, _) = log_of(&steps);
        let (mut core, mut kv, mut other_kv) = (Core::default(), Map::default(), Map::default());
        for (context, command) in &log {
            let outcome = core.apply(&mut kv, *context, command).expect("the map answers");
            let mut other = Core::load(&other_kv).expect("what was stored is read");
            prop_assert_eq!(other.apply(&mut other_kv, *context, command).expect("the map answers"), outcome);
            prop_assert_eq!(&kv, &other_kv);
        }
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn the_oldest_live_entry_is_never_above_a_kept_message(steps in steps(150)) {
        let (log, model) = log_of(&steps);
        let (mut core, mut kv) = (Core::default(), Map::default());
        for (context, command) in &log {
            core.apply(&mut kv, *context, command).expect("the map answers");
        }
        let oldest = core.oldest_live_index(&kv).expect("the map answers");
        for (queue, offset, message) in model.kept() {
            prop_assert!(oldest.is_some_and(|oldest| oldest <= message.position.index), "{}/{}", queue, offset);
        }
    }

    /// What retention does: trim, then copy what is left, a few at once, until the log can be cut.
    #[test]
    fn trimming_and_copying_lets_every_entry_go(steps in steps(150), at_once in 1..4usize) {
        let (log, _) = log_of(&steps);
        let (mut core, mut kv) = (Core::default(), Map::default());
        for (context, command) in &log {
            core.apply(&mut kv, *context, command).expect("the map answers");
        }
        let last = log.last().expect("not empty").0;
        let mut index = last.position.index;
        let mut apply = |core: &mut Core, kv: &mut Map, command| {
            index += 1;
            core.apply(kv, Context { position: place(index), ..last }, &command).expect("the map answers");
        };
        let queues: Vec<QueueId> = core.queues().map(|(queue, _)| queue).collect();
        for queue in queues {
            apply(&mut core, &mut kv, trim(queue.0, u64::MAX, u32::MAX));
        }
        loop {
            let found = core.stragglers(&kv, last.position.index, at_once, u64::MAX).expect("the map answers");
            if found.is_empty() {
                break;
            }
            for (queue, offset, _) in found {
                apply(&mut core, &mut kv, copy_forward(queue.0, offset));
            }
        }
        core.check(&kv).map_err(TestCaseError::fail)?;
        let oldest = core.oldest_live_index(&kv).expect("the map answers");
        prop_assert!(oldest.is_none_or(|oldest| oldest > last.position.index));
    }
}

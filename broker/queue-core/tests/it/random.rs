//! Random logs against the model, and replicas against each other.

use flotilla_proto::record::Command;
use proptest::prelude::*;
use queue_core::{Context, Core, Outcome, QueueId};

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

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
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
            let found = core.stragglers(&kv, last.position.index, at_once).expect("the map answers");
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

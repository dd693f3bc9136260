//! When a node tells the catalogue anew who it is.

use super::*;

/// Node 1 with this data directory.
fn with(directory: u64) -> record::Node {
    record::Node {
        id: 1,
        directory,
        incarnation: 1,
        ..Default::default()
    }
}

#[test]
fn no_number_in_the_catalogue_stops_a_node_at_its_start() {
    let me = record::Node {
        synced: 5,
        opened: 4,
        ..with(11)
    };
    let known = |synced| record::Node { synced, ..with(11) };
    assert!(shows(&known(u64::MAX), &me, false));
    assert!(shows(&known(5), &me, false));
    assert!(!shows(&known(4), &me, true));
}

/// When tries are made, of one each 200 ms; the entry changes at `change_ms`.
fn tries(until_ms: u64, change_ms: u64) -> Vec<u64> {
    let mut pace = Pace::default();
    let entry = |now_ms| with(if now_ms < change_ms { 11 } else { 12 });
    let times = (0..until_ms).step_by(200);
    times
        .filter(|&now_ms| pace.may_try(&entry(now_ms), now_ms))
        .collect()
}

#[test]
fn a_registration_that_changes_nothing_is_tried_again_ever_more_rarely() {
    assert_eq!(
        tries(250_000, u64::MAX),
        [
            0, 1_000, 3_000, 7_000, 15_000, 31_000, 63_000, 123_000, 183_000, 243_000
        ]
    );
}

#[test]
fn a_changed_entry_is_put_right_soon_but_not_at_once() {
    assert_eq!(tries(9_000, 3_200), [0, 1_000, 3_000, 4_000, 5_000, 7_000]);
}

#[test]
fn parts_of_two_directories_are_for_a_person_to_sort_out_and_damage_is_not() {
    let mixed = StoreError::WrongReplica {
        shard: 0,
        stored: 65_537,
        asked: 65_538,
    };
    assert!(
        matches!(unusable(mixed), StopReason::Refused(why) if why.contains("stored here for replica 65537, not 65538: parts of"))
    );
    assert_eq!(
        unusable(StoreError::Corrupt("it".into())),
        StopReason::Condemned("it".into())
    );
}

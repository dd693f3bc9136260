//! Which place a directory finds, from what the other nodes answer.

use super::*;

fn member(id: u32, directory: u64) -> record::Node {
    record::Node {
        id,
        directory,
        incarnation: 1,
        ..Default::default()
    }
}

fn answer(me: record::Node, fresh: bool, cluster: u64, nodes: &[record::Node]) -> (u32, StatusResponse) {
    let id = me.id;
    (
        id,
        StatusResponse {
            me: Some(me),
            fresh,
            cluster,
            nodes: nodes.to_vec(),
            ..Default::default()
        },
    )
}

#[test]
fn three_empty_directories_form_a_cluster() {
    let answers = BTreeMap::from([
        answer(member(2, 22), true, 0, &[]),
        answer(member(3, 33), true, 0, &[]),
    ]);
    let Place::Form(members) = decide_place(&member(1, 11), vec![1, 2, 3], &answers, false) else {
        panic!()
    };
    assert_eq!(members.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_copied_directory_never_forms_with_the_one_it_was_copied_from() {
    let answers = BTreeMap::from([
        answer(member(2, 22), true, 0, &[]),
        answer(member(3, 22), true, 0, &[]),
    ]);
    let Place::Wait(reason) = decide_place(&member(1, 11), vec![1, 2, 3], &answers, false) else {
        panic!()
    };
    assert!(
        reason.contains("nodes 2 and 3 have the same data directory"),
        "{reason}"
    );
}

#[test]
fn an_empty_directory_chooses_between_no_two_clusters() {
    let nodes = [member(1, 11), member(2, 22), member(3, 33)];
    let of = |(id, mut status): (u32, StatusResponse)| {
        status.from = Some(flotilla_proto::peer::Hello {
            cluster: status.cluster,
            ..Default::default()
        });
        (id, status)
    };
    let answers = BTreeMap::from([
        of(answer(member(2, 22), false, 7, &nodes)),
        of(answer(member(3, 33), false, 8, &nodes)),
    ]);
    let Place::Wait(reason) = decide_place(&member(1, 99), vec![1, 2, 3], &answers, false) else {
        panic!()
    };
    assert!(reason.contains("node 3 to 0000000000000008"), "{reason}");
}

#[test]
fn nobody_forms_while_a_node_is_silent() {
    let answers = BTreeMap::from([answer(member(2, 22), true, 0, &[])]);
    assert!(matches!(
        decide_place(&member(1, 11), vec![1, 2, 3], &answers, false),
        Place::Wait(_)
    ));
}

#[test]
fn a_lost_directory_is_replaced_and_never_forms() {
    let nodes = [member(1, 11), member(2, 22), member(3, 33)];
    let answers = BTreeMap::from([answer(member(2, 22), false, 7, &nodes)]);
    let place = decide_place(&member(1, 99), vec![1, 2, 3], &answers, false);
    assert!(matches!(place, Place::Replaced { via: 2, .. }), "{place:?}");
}

#[test]
fn a_directory_that_formed_with_another_one_makes_the_new_one_wait() {
    let seen = [member(1, 11), member(2, 22), member(3, 33)];
    let answers = BTreeMap::from([
        answer(member(2, 22), false, 0, &seen),
        answer(member(3, 33), false, 0, &seen),
    ]);
    let place = decide_place(&member(1, 99), vec![1, 2, 3], &answers, false);
    assert!(matches!(place, Place::Wait(_)), "{place:?}");
}

#[test]
fn a_late_node_with_the_expected_directory_is_known() {
    let nodes = [member(1, 11), member(2, 22), member(3, 33)];
    let answers = BTreeMap::from([answer(member(2, 22), false, 7, &nodes)]);
    let place = decide_place(&member(1, 11), vec![1, 2, 3], &answers, false);
    assert!(matches!(place, Place::Known { incarnation: 1, .. }), "{place:?}");
}

#[test]
fn a_node_that_had_data_once_never_forms_a_cluster_nor_is_it_formed_with() {
    let mut answers: BTreeMap<_, _> = [
        answer(member(2, 22), true, 0, &[]),
        answer(member(3, 33), true, 0, &[]),
    ]
    .into();
    let place = decide_place(&member(1, 11), vec![1, 2, 3], &answers, true);
    assert!(
        matches!(&place, Place::Wait(why) if why.contains("node 1 had data")),
        "{place:?}"
    );
    answers.get_mut(&3).unwrap().had_data = true;
    let place = decide_place(&member(1, 11), vec![1, 2, 3], &answers, false);
    assert!(
        matches!(&place, Place::Wait(why) if why.contains("node 3 had data")),
        "{place:?}"
    );
}

#[test]
fn a_node_that_had_data_once_is_rebuilt_by_the_cluster_that_is_there() {
    let nodes = [member(1, 11), member(2, 22), member(3, 33)];
    let answers = [
        answer(member(2, 22), false, 7, &nodes),
        answer(member(3, 33), false, 7, &nodes),
    ]
    .into();
    let place = decide_place(&member(1, 99), vec![1, 2, 3], &answers, true);
    assert!(matches!(place, Place::Replaced { cluster: 7, .. }), "{place:?}");
}

#[test]
fn no_number_in_the_catalogue_stops_a_node_at_its_start() {
    let me = record::Node {
        synced: 5,
        opened: 4,
        ..member(1, 11)
    };
    let known = |synced| record::Node {
        synced,
        ..member(1, 11)
    };
    assert!(shows(&known(u64::MAX), &me, false));
    assert!(shows(&known(5), &me, false));
    assert!(!shows(&known(4), &me, true));
}

/// When tries are made, of one each 200 ms; the entry changes at `change_ms`.
fn tries(until_ms: u64, change_ms: u64) -> Vec<u64> {
    let mut pace = Pace::default();
    let entry = |now_ms| member(1, if now_ms < change_ms { 11 } else { 12 });
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

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
    assert!(
        matches!(
            place,
            Place::Replaced {
                via: 2,
                replaces: 11,
                ..
            }
        ),
        "{place:?}"
    );
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
fn a_lost_directory_replaces_the_newest_that_anybody_knows_of() {
    let newer = record::Node {
        incarnation: 2,
        ..member(1, 12)
    };
    let behind = answer(
        member(2, 22),
        false,
        7,
        &[member(1, 11), member(2, 22), member(3, 33)],
    );
    let ahead = answer(member(3, 33), false, 7, &[newer, member(2, 22), member(3, 33)]);
    let place = decide_place(
        &member(1, 99),
        vec![1, 2, 3],
        &BTreeMap::from([behind, ahead]),
        false,
    );
    assert!(
        matches!(
            place,
            Place::Replaced {
                via: 3,
                replaces: 12,
                ..
            }
        ),
        "{place:?}"
    );
}

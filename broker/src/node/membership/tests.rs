//! Which member a shard's leader changes next, case by case.

use super::*;

/// Replicas of nodes 1, 2, ...: the incarnation of each.
fn replicas(incarnations: &[u32]) -> BTreeSet<u64> {
    (1..)
        .zip(incarnations)
        .map(|(node, &incarnation)| replica_of(node, incarnation))
        .collect()
}

/// Takes steps until nothing is to be done; how many.
fn walk(mut voters: Vec<BTreeSet<u64>>, mut learners: BTreeSet<u64>, wanted: &BTreeSet<u64>) -> usize {
    for steps in 0..20 {
        match step(&voters, &learners, wanted, |_| true) {
            Step::Done => {
                assert_eq!(voters, std::slice::from_ref(wanted));
                return steps;
            }
            Step::Wait => panic!("all have caught up"),
            Step::AddLearner(new) => assert!(learners.insert(new)),
            Step::RemoveLearners(stale) => {
                assert!(stale.is_subset(&learners) && !stale.is_empty());
                learners.retain(|id| !stale.contains(id));
            }
            Step::ChangeVoters(next) => {
                // What Raft refuses: voters that were never learners.
                let known = |id: &u64| learners.contains(id) || voters.iter().any(|set| set.contains(id));
                assert!(next.iter().all(known), "{next:?} of {voters:?} and {learners:?}");
                learners.retain(|id| !next.contains(id));
                voters = vec![next];
            }
        }
    }
    panic!("it never ends");
}

#[test]
fn a_new_replica_of_a_node_takes_the_place_of_the_old_one() {
    let (old, new) = (replicas(&[1, 1, 1]), replicas(&[1, 2, 1]));
    assert_eq!(walk(vec![old], BTreeSet::new(), &new), 2);
}

#[test]
fn a_learner_whose_directory_was_replaced_before_it_was_promoted_goes() {
    let (old, new) = (replicas(&[1, 1, 1]), replicas(&[1, 3, 1]));
    let stale = BTreeSet::from([replica_of(2, 2)]);
    assert_eq!(
        step(std::slice::from_ref(&old), &stale, &new, |_| true),
        Step::RemoveLearners(stale.clone())
    );
    assert_eq!(walk(vec![old], stale.clone(), &new), 3);
    assert_eq!(walk(vec![new.clone()], stale, &new), 1);
}

#[test]
fn a_leader_whose_catalogue_is_behind_goes_back_to_no_older_replica() {
    let (old, new) = (replicas(&[1, 1, 1]), replicas(&[1, 2, 1]));
    let learners = BTreeSet::from([replica_of(2, 2)]);
    let with_learner = |caught_up| step(std::slice::from_ref(&old), &learners, &old, |_| caught_up);
    assert_eq!(with_learner(false), Step::Wait);
    assert_eq!(with_learner(true), Step::ChangeVoters(new.clone()));
    assert_eq!(
        step(std::slice::from_ref(&new), &BTreeSet::new(), &old, |_| true),
        Step::Done
    );
}

#[test]
fn a_learner_of_a_node_that_the_catalogue_does_not_show_is_left_alone() {
    let right = replicas(&[1, 1, 1]);
    let learners = BTreeSet::from([replica_of(4, 1)]);
    assert_eq!(
        step(std::slice::from_ref(&right), &learners, &right, |_| true),
        Step::Done
    );
}

#[test]
fn a_learner_that_has_stopped_is_not_promoted_on_what_it_had() {
    let learner = replica_of(2, 2);
    let mut status = ReplicaStatus {
        last_log: Some(1_000),
        replication: [(learner, Some(1_000))].into(),
        heard_ms_ago: [(learner, 200)].into(),
        ..ReplicaStatus::default()
    };
    assert!(caught_up(&status, learner, Duration::from_secs(1)));
    status.heard_ms_ago.insert(learner, 1_001);
    assert!(!caught_up(&status, learner, Duration::from_secs(1)));
    status.heard_ms_ago.clear();
    assert!(!caught_up(&status, learner, Duration::from_secs(1)));
}

#[test]
fn a_leader_moves_to_voters_only() {
    let (here, there) = (replica_of(1, 1), replica_of(2, 2));
    let mut status = ReplicaStatus {
        last_log: Some(1_000),
        replication: [(there, Some(1_000))].into(),
        heard_ms_ago: [(there, 0)].into(),
        voters: vec![[here].into()],
        learners: [there].into(),
        ..ReplicaStatus::default()
    };
    assert_eq!(successor(&status, 2, Duration::from_secs(1)), None);
    status.voters = vec![[here, there].into()];
    assert_eq!(successor(&status, 2, Duration::from_secs(1)), Some(there));
    assert_eq!(successor(&status, 3, Duration::from_secs(1)), None);
}

#[test]
fn nothing_is_done_about_the_right_members() {
    let right = replicas(&[1, 2, 1]);
    assert_eq!(walk(vec![right.clone()], BTreeSet::new(), &right), 0);
}

#[test]
fn a_learner_is_waited_for() {
    let (old, new) = (replicas(&[1, 1, 1]), replicas(&[1, 2, 1]));
    let learners = BTreeSet::from([replica_of(2, 2)]);
    assert_eq!(step(&[old], &learners, &new, |_| false), Step::Wait);
}

#[test]
fn a_change_left_half_done_is_finished_although_something_else_is_wanted_by_now() {
    let (old, meant, wanted) = (replicas(&[1, 1, 1]), replicas(&[1, 2, 1]), replicas(&[1, 2, 2]));
    assert_eq!(
        step(&[old.clone(), meant.clone()], &BTreeSet::new(), &wanted, |_| true),
        Step::ChangeVoters(meant.clone())
    );
    assert_eq!(walk(vec![old, meant], BTreeSet::new(), &wanted), 3);
}

//! Every way in which somebody can be what he does not say.

use super::*;

const CLUSTER: u64 = 7;

fn hello(node: u32, directory: u64, session: u64) -> Hello {
    Hello {
        node,
        directory,
        cluster: CLUSTER,
        incarnation: 1,
        session,
        opened: 100,
        synced: 100,
        ..Hello::default()
    }
}

fn listed(id: u32, directory: u64, incarnation: u32) -> record::Node {
    record::Node {
        id,
        directory,
        incarnation,
        ..record::Node::default()
    }
}

/// Node 1, which has heard node 2 with directory 22 in session 1, 100 batches, at 1,000 ms.
struct One(Arc<Roster>);

impl One {
    fn new() -> One {
        let one = One(Arc::default());
        assert_eq!(one.hears(&hello(2, 22, 1), 1_000), None);
        one
    }

    /// The kind of the refusal, if any.
    fn hears(&self, other: &Hello, now_ms: u64) -> Option<Kind> {
        self.hears_listed(other, &listed(2, 22, 1), now_ms)
    }

    fn hears_listed(&self, other: &Hello, listed: &record::Node, now_ms: u64) -> Option<Kind> {
        let judged = self.0.hear(&hello(1, 11, 1), Some(listed), other, now_ms);
        judged.err().map(|stranger| stranger.kind())
    }
}

#[test]
fn a_directory_of_another_cluster_is_a_stranger_and_takes_nobodys_place() {
    let one = One::new();
    let other = Hello {
        cluster: 8,
        ..hello(2, 99, 2)
    };
    assert_eq!(one.hears(&other, 1_001), Some(Kind::OtherCluster));
    assert!(one.0.refused(1_002)[&2].contains("cluster 0000000000000008"));
    assert_eq!(one.hears(&hello(2, 22, 1), 1_003), None);
    assert!(one.0.refused(1_004).is_empty());
}

#[test]
fn who_has_no_cluster_yet_may_ask_and_is_not_taken_for_the_node() {
    let one = One::new();
    let fresh = Hello {
        cluster: 0,
        incarnation: 0,
        ..hello(2, 99, 2)
    };
    assert_eq!(one.hears(&fresh, 1_001), None);
    let _connected = one.0.seat(&hello(2, 22, 1));
    assert!(
        one.0.lives_elsewhere(2, 99, 1_002),
        "the old directory is still the one that was heard"
    );
}

#[test]
fn a_directory_that_was_replaced_is_a_stranger_as_soon_as_the_catalogue_says_so() {
    let one = One::new();
    assert_eq!(
        one.hears_listed(&hello(2, 22, 1), &listed(2, 23, 2), 1_001),
        Some(Kind::Replaced)
    );
    let new = Hello {
        incarnation: 2,
        opened: 0,
        ..hello(2, 23, 2)
    };
    assert_eq!(one.hears_listed(&new, &listed(2, 23, 2), 1_002), None);
}

#[test]
fn a_new_directory_is_known_before_the_catalogue_here_shows_it() {
    let one = One::new();
    let new = Hello {
        incarnation: 2,
        opened: 0,
        synced: 0,
        ..hello(2, 23, 2)
    };
    assert_eq!(one.hears(&new, 1_001), None);
}

#[test]
fn another_directory_of_the_same_incarnation_is_a_stranger() {
    let one = One::new();
    assert_eq!(one.hears(&hello(2, 33, 2), 1_001), Some(Kind::Replaced));
}

#[test]
fn a_number_that_the_cluster_does_not_have_is_a_stranger_and_not_remembered() {
    let roster = Roster::default();
    let judged = roster.hear(&hello(1, 11, 1), None, &hello(9, 99, 1), 0);
    assert_eq!(judged.unwrap_err().kind(), Kind::NotAMember);
    assert!(roster.lock().is_empty());
}

#[test]
fn a_restart_goes_on_where_the_process_before_ended() {
    let one = One::new();
    let seat = one.0.seat(&hello(2, 22, 1));
    assert_eq!(
        one.hears(
            &Hello {
                synced: 150,
                ..hello(2, 22, 1)
            },
            1_001
        ),
        None
    );
    drop(seat);
    assert_eq!(
        one.hears(
            &Hello {
                opened: 150,
                ..hello(2, 22, 2)
            },
            1_002
        ),
        None
    );
}

#[test]
fn a_directory_put_back_to_an_older_state_is_a_stranger_however_much_it_writes_by_itself() {
    let one = One::new();
    assert_eq!(
        one.hears(
            &Hello {
                synced: 150,
                ..hello(2, 22, 1)
            },
            1_001
        ),
        None
    );
    let older = Hello {
        opened: 149,
        synced: 500,
        ..hello(2, 22, 2)
    };
    assert_eq!(one.hears(&older, 9_000), Some(Kind::Older));
}

#[test]
fn an_older_state_is_known_by_the_catalogue_after_a_restart_of_everybody() {
    let one = One(Arc::default());
    let registered = record::Node {
        synced: 101,
        session: 1,
        ..listed(2, 22, 1)
    };
    assert_eq!(
        one.hears_listed(&hello(2, 22, 2), &registered, 0),
        Some(Kind::Older)
    );
    // The life that registered it opened it with less, of course.
    assert_eq!(one.hears_listed(&hello(2, 22, 1), &registered, 0), None);
}

#[test]
fn what_was_sent_before_and_arrives_later_is_no_older_state() {
    let one = One::new();
    assert_eq!(
        one.hears(
            &Hello {
                synced: 150,
                ..hello(2, 22, 1)
            },
            1_001
        ),
        None
    );
    assert_eq!(
        one.hears(
            &Hello {
                synced: 120,
                ..hello(2, 22, 1)
            },
            1_002
        ),
        None
    );
    assert_eq!(
        one.hears(
            &Hello {
                opened: 149,
                ..hello(2, 22, 2)
            },
            1_003
        ),
        Some(Kind::Older)
    );
}

#[test]
fn a_copy_that_is_started_too_waits_until_the_other_process_is_gone() {
    let one = One::new();
    let seat = one.0.seat(&hello(2, 22, 1));
    let copy = hello(2, 22, 2);
    assert_eq!(one.hears(&copy, 1_001), Some(Kind::Twice));
    assert_eq!(one.hears(&hello(2, 22, 1), 1_002), None, "the first goes on");
    drop(seat);
    assert_eq!(one.hears(&copy, 1_003), None);
    let _seat = one.0.seat(&copy);
    assert_eq!(
        one.hears(&hello(2, 22, 1), 1_004),
        Some(Kind::Twice),
        "now it is the second one"
    );
}

#[test]
fn a_connection_on_which_nothing_is_heard_keeps_nobody_out() {
    let one = One::new();
    let _seat = one.0.seat(&hello(2, 22, 1));
    assert_eq!(one.hears(&hello(2, 22, 2), 1_000 + LIVES_FOR_MS), None);
}

#[test]
fn a_node_with_this_ones_number_is_a_stranger() {
    let one = One::new();
    let me = listed(1, 11, 1);
    assert_eq!(one.hears_listed(&hello(1, 11, 2), &me, 0), Some(Kind::Twice));
}

#[test]
fn an_older_state_is_known_for_one_as_soon_as_the_catalogue_says_so() {
    let one = One(Arc::default());
    let back = Hello {
        opened: 90,
        ..hello(2, 22, 2)
    };
    assert_eq!(
        one.hears(&back, 0),
        None,
        "nobody remembers, so soon after a restart of all"
    );
    let registered = record::Node {
        synced: 91,
        session: 1,
        ..listed(2, 22, 1)
    };
    assert_eq!(one.hears_listed(&back, &registered, 1), Some(Kind::Older));
}

#[test]
fn an_original_that_finds_a_copy_in_its_place_is_one_of_two_and_no_older_state() {
    let one = One::new();
    let copy = Hello {
        opened: 150,
        synced: 160,
        ..hello(2, 22, 2)
    };
    let after_a_pause = 1_000 + LIVES_FOR_MS;
    assert_eq!(one.hears(&copy, after_a_pause), None);
    assert_eq!(one.hears(&hello(2, 22, 1), after_a_pause + 1), Some(Kind::Twice));
    assert_eq!(one.hears(&hello(2, 22, 1), 90_000), Some(Kind::Twice));
    assert_eq!(
        one.hears(&hello(2, 22, 3), 90_001),
        Some(Kind::Older),
        "a new one"
    );
}

#[test]
fn however_often_a_node_starts_its_processes_remembered_are_bounded() {
    let one = One::new();
    for start in 2..1_000 {
        assert_eq!(one.hears(&hello(2, 22, start), 1_001), None);
    }
    assert_eq!(one.0.lock()[&2].processes.len(), PROCESSES_REMEMBERED);
}

#[test]
fn an_original_whose_copy_the_catalogue_took_is_one_of_two_and_no_older_state() {
    let one = One::new();
    let registered = |session, synced| record::Node {
        synced,
        session,
        ..listed(2, 22, 1)
    };
    assert_eq!(
        one.hears_listed(&hello(2, 22, 1), &registered(1, 101), 1_001),
        None
    );
    assert_eq!(
        one.hears_listed(&hello(2, 22, 1), &registered(2, 160), 1_002),
        Some(Kind::Twice)
    );
}

#[test]
fn connections_made_while_the_cluster_forms_count_when_it_has_formed() {
    let one = One(Arc::new(Roster::of([2, 3])));
    let nobody = |hello: Hello| Hello {
        cluster: 0,
        incarnation: 0,
        ..hello
    };
    let early = nobody(hello(2, 22, 1));
    assert_eq!(one.0.hear(&nobody(hello(1, 11, 1)), None, &early, 0), Ok(()));
    let seat = one.0.seat(&early);
    assert_eq!(one.hears(&hello(2, 22, 1), 1_000), None);
    assert!(
        one.0.lives_elsewhere(2, 99, 1_001),
        "an empty directory beside it"
    );
    assert_eq!(
        one.hears(&hello(2, 22, 2), 1_002),
        Some(Kind::Twice),
        "a copy beside it"
    );
    drop(seat);
    assert!(!one.0.lives_elsewhere(2, 99, 1_003));
}

#[test]
fn a_connection_that_was_not_counted_takes_nothing_away_when_it_ends() {
    let one = One(Arc::default());
    let uncounted = one.0.seat(&hello(2, 22, 1));
    assert_eq!(one.hears(&hello(2, 22, 1), 1_000), None);
    let _counted = one.0.seat(&hello(2, 22, 1));
    drop(uncounted);
    assert!(one.0.lives_elsewhere(2, 99, 1_001));
}

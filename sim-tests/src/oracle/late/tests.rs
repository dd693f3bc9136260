//! Histories in which what is owed comes, and such in which it does not.

use super::{super::testing::*, *};

fn judged(events: &[(u64, Event)]) -> usize {
    judged_with(true, events)
}

fn judged_with(room_in_flight: bool, events: &[(u64, Event)]) -> usize {
    judged_by(
        Rules {
            room_in_flight,
            ..RULES
        },
        events,
    )
}

const RULES: Rules = Rules {
    max_attempts: 3,
    renew_at_most: Duration::from_secs(1_000),
    majority_is_up: false,
    room_in_flight: true,
    loses_answers: false,
};

fn judged_by(rules: Rules, events: &[(u64, Event)]) -> usize {
    let mut late = Late::new(["g".to_owned()].into(), rules);
    judge(&mut late, events).len()
}

/// Something else happens.
fn later(at: u64) -> (u64, Event) {
    (at, sending("t/2"))
}

#[test]
fn what_is_stored_comes() {
    let stored = || (10, stored("t/1", 0));
    assert_eq!(judged(&[(1, Event::Calm), stored(), later(106)]), 0);
    assert_eq!(judged(&[(1, Event::Calm), stored(), later(107)]), 1);
    assert_eq!(judged(&[stored(), later(1_000)]), 0, "there are faults");
    let came = (11, delivered("t/1", 0, 1, 11));
    let done = (12, acked("t/1", 0));
    assert_eq!(
        judged(&[(1, Event::Calm), stored(), came.clone(), done.clone(), later(999)]),
        0
    );
    assert_eq!(
        judged(&[(1, Event::Calm), came, done, stored(), later(999)]),
        0,
        "before its producer knew"
    );
}

#[test]
fn what_retention_took_is_owed_to_nobody() {
    let took = (11, forgotten("t/1", 0, crate::history::Why::Room));
    let calm = || (1, Event::Calm);
    let stored = |at| (at, stored("t/1", 0));
    assert_eq!(judged(&[calm(), stored(10), took.clone(), later(999)]), 0);
    assert_eq!(judged(&[calm(), took, stored(12), later(999)]), 0);
}

#[test]
fn what_is_forgotten_comes_again_after_its_lease_and_its_wait() {
    let forgotten = |at| judged(&[(1, Event::Calm), (50, delivered("t/1", 0, 1, 49)), later(at)]);
    assert_eq!(forgotten(83), 0);
    assert_eq!(forgotten(84), 1);
    let Event::Delivered(mut dead) = delivered("t/1", 0, 1, 60) else {
        unreachable!()
    };
    dead.place.topic = "%DLQ%g".into();
    let last = [
        (1, Event::Calm),
        (50, delivered("t/1", 0, 3, 49)),
        (60, Event::Delivered(dead)),
        later(999),
    ];
    assert_eq!(judged(&last), 0, "it is a dead letter");
}

#[test]
fn what_may_be_hidden_comes_when_it_is_over_at_the_latest() {
    let hidden = |at| {
        let unsure = Event::HideUnsure {
            receipt: receipt("t/1", 0, 1),
            asked: S(51),
            invisible: S(20),
        };
        judged(&[
            (1, Event::Calm),
            (50, delivered("t/1", 0, 1, 49)),
            (51, unsure),
            later(at),
        ])
    };
    assert_eq!(hidden(104), 0);
    assert_eq!(hidden(105), 1);
}

#[test]
fn what_the_server_renews_comes_when_its_holder_is_gone() {
    let Event::Delivered(mut it) = delivered("t/1", 0, 1, 49) else {
        unreachable!()
    };
    it.renewed = true;
    let came = [(1, Event::Calm), (50, Event::Delivered(it))];
    let with = |event: Option<Event>, at| {
        let mut events = came.to_vec();
        events.extend(event.map(|event| (60, event)));
        events.push(later(at));
        judged(&events)
    };
    let died = || Event::Died {
        client: "c".into(),
        group: "g".into(),
        topic: "t".into(),
    };
    // It is 11, 188 and 1,068 seconds, each with the 15 that a delivery takes.
    assert_eq!((with(Some(leaving()), 86), with(Some(leaving()), 87)), (0, 1));
    assert_eq!((with(Some(died()), 263), with(Some(died()), 264)), (0, 1));
    assert_eq!((with(None, 1_133), with(None, 1_134)), (0, 1));
}

#[test]
fn what_came_for_a_name_that_had_left_is_not_given_back_by_the_next_good_bye() {
    let Event::Delivered(mut it) = delivered("t/1", 0, 1, 49) else {
        unreachable!()
    };
    it.renewed = true;
    let until = |at| {
        judged(&[
            (1, Event::Calm),
            (50, leaving()),
            (52, Event::Delivered(it.clone())),
            (60, leaving()),
            later(at),
        ])
    };
    // 188 seconds, as of a client that is silent.
    assert_eq!((until(255), until(256)), (0, 1));
}

#[test]
fn a_shorter_end_that_was_agreed_counts() {
    let hidden = Event::Hidden {
        receipt: receipt("t/1", 0, 1),
        asked: S(51),
        invisible: S(1),
    };
    let events = |at| {
        [
            (1, Event::Calm),
            (50, delivered("t/1", 0, 1, 49)),
            (51, hidden.clone()),
            later(at),
        ]
    };
    assert_eq!(judged(&events(75)), 0);
    assert_eq!(judged(&events(76)), 1);
}

#[test]
fn where_few_are_in_flight_at_a_time_only_what_came_once_is_due() {
    let stands_behind = [(1, Event::Calm), (20, stored("t/1", 0)), later(999)];
    assert_eq!(judged_with(true, &stands_behind), 1);
    assert_eq!(judged_with(false, &stands_behind), 0);
    let came = [(1, Event::Calm), (50, delivered("t/1", 0, 1, 49)), later(999)];
    assert_eq!(judged_with(false, &came), 1);
}

#[test]
fn who_dies_excuses_its_own_topic_only() {
    let died = |topic: &str| Event::Died {
        client: "c".into(),
        group: "g".into(),
        topic: topic.into(),
    };
    let judged = |topic| {
        let stored = (20, stored("t/1", 0));
        judged(&[(1, Event::Calm), stored, (100, died(topic)), later(111)])
    };
    assert_eq!((judged("t"), judged("other")), (0, 1));
}

/// Seed 24005405: a leader had damage that was found late, and another one led for a while.
#[test]
fn who_leads_since_lets_the_leases_of_the_dead_end_after_its_own_wait() {
    let judged = |led: Option<u64>, at| {
        let Event::Delivered(mut held) = delivered("t/1", 0, 1, 9) else {
            unreachable!("it is one");
        };
        held.renewed = true;
        let died = Event::Died {
            client: held.client.clone(),
            group: held.group.clone(),
            topic: "t".into(),
        };
        let mut events = vec![(10, Event::Delivered(held)), (20, died), (30, Event::Calm)];
        events.extend(led.map(|led| (led, Event::Led)));
        events.push(later(at));
        judged(&events)
    };
    // 180 from the calm on, or 188 since there is another leader, and 15 that a delivery takes.
    assert_eq!((judged(None, 225), judged(None, 226)), (0, 1));
    assert_eq!((judged(Some(100), 303), judged(Some(100), 304)), (0, 1));
}

/// Seeds 24001534 and 24001625: nobody else was there to read while it was silent, before it counted as dead.
#[test]
fn who_vanishes_excuses_its_topic_from_then_on() {
    let vanishing = || Event::Vanishing {
        client: "c".into(),
        group: "g".into(),
        topic: "t".into(),
    };
    let judged = |at| {
        let hidden = Event::Hidden {
            receipt: receipt("t/1", 0, 1),
            asked: S(100),
            invisible: S(1),
        };
        let delivered = delivered("t/1", 0, 1, 100);
        judged(&[
            (1, Event::Calm),
            (100, delivered),
            (101, hidden),
            (105, vanishing()),
            later(at),
        ])
    };
    // 30 of silence, 38 for what it may have been given last, and 15 that a delivery takes.
    assert_eq!((judged(188), judged(189)), (0, 1));
}

#[test]
fn where_answers_get_lost_two_may_be_lost_in_a_row() {
    let rules = Rules {
        loses_answers: true,
        ..RULES
    };
    let judged = |at| {
        let events = [(1, Event::Calm), (50, delivered("t/1", 0, 1, 49)), later(at)];
        judged_by(rules, &events)
    };
    // 68, the longest lease and wait twice, and 15 that a delivery takes.
    assert_eq!((judged(159), judged(160)), (0, 1));
}

//! What the ledger finds wrong in a run, and what it does not.

use super::*;

struct World {
    ledger: Ledger,
}

impl World {
    fn new(message_groups: u32) -> Self {
        Self {
            ledger: Ledger::new(RunId(5), 2, 1, message_groups),
        }
    }

    fn send(&self, producer: u32, outcome: Outcome, tries: u32) -> Stamp {
        let sequence = self.ledger.begin(producer, 0).unwrap();
        self.ledger.end(producer, sequence, outcome, tries);
        Stamp {
            run: RunId(5),
            producer,
            sequence,
            due_ns: 1,
        }
    }

    fn arrive(&self, stamp: Stamp, offset: i64, attempt: i32) -> Seen {
        let group = self
            .ledger
            .groups()
            .of(stamp.producer, stamp.sequence)
            .map(MessageGroups::name);
        self.ledger.arrived(&Arrival {
            message_id: &stamp.message_id(),
            body: &stamp.encode(64),
            topic: 0,
            message_group: group.as_deref(),
            position: Position { queue: 0, offset },
            attempt,
        })
    }
}

#[test]
fn a_run_in_which_everything_arrives_holds() {
    let world = World::new(0);
    for offset in 0..100 {
        let stamp = world.send(offset % 2, Outcome::Acknowledged, 1);
        assert_eq!(world.ledger.outstanding(), 1);
        assert_eq!(world.arrive(stamp, i64::from(offset), 1), Seen::First(stamp));
        assert_eq!(world.ledger.outstanding(), 0);
    }
    let verdict = world.ledger.verdict();
    assert!(verdict.holds());
    assert_eq!(
        (verdict.acknowledged, verdict.arrived, verdict.lost),
        (100, 100, 0)
    );
    assert_eq!(verdict.order_violations, None);
}

#[test]
fn an_acknowledged_message_that_never_comes_is_lost() {
    let world = World::new(0);
    let lost = world.send(1, Outcome::Acknowledged, 2);
    let verdict = world.ledger.verdict();
    assert_eq!((verdict.lost, world.ledger.outstanding()), (1, 1));
    assert!(!verdict.holds());
    assert_eq!(verdict.examples, [format!("lost: message {}", lost.message_id())]);
}

#[test]
fn an_unknown_end_stays_unknown_whether_the_message_arrives_or_not() {
    let world = World::new(0);
    world.send(0, Outcome::Unknown, 3);
    let arriving = world.send(0, Outcome::Unknown, 3);
    assert_eq!(world.arrive(arriving, 7, 1), Seen::First(arriving));
    let verdict = world.ledger.verdict();
    assert!(verdict.holds());
    assert_eq!((verdict.unknown, verdict.unknown_arrived), (2, 1));
}

#[test]
fn a_refused_message_that_arrives_is_unexpected() {
    let world = World::new(0);
    let refused = world.send(0, Outcome::Refused, 1);
    world.arrive(refused, 0, 1);
    let verdict = world.ledger.verdict();
    assert_eq!((verdict.refused, verdict.unexpected), (1, 1));
    assert!(!verdict.holds());
}

#[test]
fn a_second_copy_is_a_duplicate_and_first_tries_are_counted_apart() {
    let world = World::new(0);
    let first_try = world.send(0, Outcome::Acknowledged, 1);
    let retried = world.send(0, Outcome::Acknowledged, 2);
    for (offset, stamp) in [(0, first_try), (1, retried)] {
        world.arrive(stamp, offset, 1);
        assert_eq!(world.arrive(stamp, offset + 10, 1), Seen::Duplicate);
    }
    let verdict = world.ledger.verdict();
    assert_eq!((verdict.duplicated, verdict.duplicated_first_try), (2, 1));
    assert!(verdict.holds());
}

#[test]
fn the_same_copy_again_is_a_redelivery_unless_it_claims_to_be_the_first() {
    let world = World::new(0);
    let stamp = world.send(0, Outcome::Acknowledged, 1);
    world.arrive(stamp, 4, 1);
    assert_eq!(world.arrive(stamp, 4, 2), Seen::Redelivered);
    assert_eq!(world.arrive(stamp, 4, 1), Seen::Duplicate);
    let verdict = world.ledger.verdict();
    assert_eq!((verdict.redelivered, verdict.duplicated), (1, 1));
}

#[test]
fn damaged_invented_and_misplaced_messages_are_unexpected_and_other_runs_are_foreign() {
    let world = World::new(0);
    let stamp = world.send(0, Outcome::Acknowledged, 1);
    let mut damaged = stamp.encode(64).to_vec();
    damaged[50] ^= 1;
    let arrival = |id: &str, body: &[u8], topic: u32| {
        world.ledger.arrived(&Arrival {
            message_id: id,
            body,
            topic,
            message_group: None,
            position: Position { queue: 0, offset: 0 },
            attempt: 1,
        })
    };
    let id = stamp.message_id();
    assert_eq!(arrival(&id, &damaged, 0), Seen::Unexpected);
    assert_eq!(arrival(&id, b"nothing like it", 0), Seen::Unexpected);
    let invented = Stamp {
        sequence: 77,
        ..stamp
    };
    assert_eq!(
        arrival(&invented.message_id(), &invented.encode(64), 0),
        Seen::Unexpected
    );
    assert_eq!(
        arrival(&invented.message_id(), &stamp.encode(64), 0),
        Seen::Unexpected
    );
    assert_eq!(arrival(&id, &stamp.encode(64), 3), Seen::Unexpected);
    assert_eq!(arrival("some other id", b"hello", 0), Seen::Foreign);
    let other = Stamp {
        run: RunId(6),
        ..stamp
    };
    assert_eq!(arrival(&other.message_id(), &other.encode(64), 0), Seen::Foreign);
    let verdict = world.ledger.verdict();
    assert_eq!((verdict.unexpected, verdict.foreign, verdict.lost), (5, 2, 1));
}

#[test]
fn message_groups_are_dealt_out_completely_and_each_to_one_producer() {
    for (count, producers) in [(1, 1), (3, 2), (10, 4), (7, 7), (2, 2)] {
        let groups = MessageGroups { count, producers };
        let mut owners = vec![Vec::new(); count as usize];
        for producer in 0..producers {
            for sequence in 0..groups.owned_by(producer) {
                owners[groups.of(producer, sequence).unwrap() as usize].push(producer);
            }
        }
        assert!(
            owners.iter().all(|owners| owners.len() == 1),
            "{count} over {producers}: {owners:?}"
        );
    }
    assert_eq!(
        MessageGroups {
            count: 0,
            producers: 4
        }
        .of(0, 9),
        None
    );
}

#[test]
fn only_acknowledged_messages_of_one_message_group_are_held_to_their_order() {
    // Two producers and four message groups: each producer has two, taking turns.
    let world = World::new(4);
    let stamps: Vec<Stamp> = (0..4).map(|_| world.send(0, Outcome::Acknowledged, 1)).collect();
    let unknown: Vec<Stamp> = (0..2).map(|_| world.send(0, Outcome::Unknown, 5)).collect();
    let after: Vec<Stamp> = (0..2).map(|_| world.send(0, Outcome::Acknowledged, 1)).collect();
    // Another message group may overtake ...
    for stamp in [stamps[1], stamps[0], stamps[2]] {
        world.arrive(stamp, i64::from(stamp.sequence), 1);
    }
    assert_eq!(world.ledger.verdict().order_violations, Some(0));
    // ... a send of unknown end too, but nothing acknowledged.
    for stamp in [after[0], after[1], unknown[0], unknown[1], stamps[3]] {
        world.arrive(stamp, i64::from(stamp.sequence), 1);
    }
    let verdict = world.ledger.verdict();
    assert_eq!(verdict.order_violations, Some(1));
    assert!(!verdict.holds());
}

#[test]
fn a_message_may_arrive_before_its_send_is_known_to_have_ended() {
    let world = World::new(0);
    let sequence = world.ledger.begin(0, 0).unwrap();
    let stamp = Stamp {
        run: RunId(5),
        producer: 0,
        sequence,
        due_ns: 1,
    };
    assert_eq!(world.arrive(stamp, 0, 1), Seen::First(stamp));
    world.ledger.end(0, sequence, Outcome::Acknowledged, 1);
    assert_eq!(world.ledger.outstanding(), 0);
    assert!(world.ledger.verdict().holds());
}

//! Written, Renew, Depart: the leases that the server prolongs, as long as their clients live.

use flotilla_proto::record::{Command, Depart, Renew, StartAt, command::Command as Kind, release::Action};

use crate::support::{BACKOFF_MS, G, G_OTHER, LEASE_MS, Q, START_MS, Shard, command, written};

/// What `deliver` names as the client.
const CLIENT: u64 = 7;
const END: u64 = START_MS + LEASE_MS;

/// Leased to a push consumer.
fn leased(count: u64) -> Shard {
    let mut shard = Shard::subscribed();
    shard.fill(Q, count);
    shard.deliver_as(G, Q, count as usize, 5, true);
    shard
}

fn renew(clients: &[u64], before_ms: u64, limit: u32) -> Command {
    command(Kind::Renew(Renew {
        clients: clients.to_vec(),
        before_ms,
        until_ms: before_ms + LEASE_MS,
        since_ms: 0,
        limit,
    }))
}

fn depart(clients: &[u64], at_ms: u64, limit: u32) -> Command {
    command(Kind::Depart(Depart {
        clients: clients.to_vec(),
        at_ms,
        limit,
    }))
}

fn ends(shard: &Shard, offset: u64) -> u64 {
    shard.in_flight(offset).unwrap().at_ms
}

#[test]
fn a_lease_whose_answer_was_not_written_out_is_not_renewed() {
    let mut shard = leased(2);
    assert_eq!(shard.prolong(written(5, &[1], START_MS)), (1, false));
    assert_eq!(shard.prolong(renew(&[CLIENT], END + 1, 9)), (1, false));
    assert_eq!(ends(&shard, 0), END);
    assert_eq!(ends(&shard, 1), END + 1 + LEASE_MS);
    assert_eq!(shard.in_flight(1).unwrap().nonce, 5, "the receipt stays");
}

#[test]
fn what_is_written_lasts_at_least_as_long_as_said_and_never_shorter() {
    let mut shard = leased(2);
    shard.prolong(written(5, &[0], END + 50));
    shard.prolong(written(5, &[1], START_MS));
    assert_eq!((ends(&shard, 0), ends(&shard, 1)), (END + 50, END));
    assert_eq!(shard.prolong(written(5, &[0], END + 90)), (0, false), "once");
}

#[test]
fn written_counts_for_the_named_lease_of_a_push_consumer_alone() {
    let mut shard = leased(2);
    assert_eq!(
        shard.prolong(written(6, &[0], END + 50)),
        (0, false),
        "another lease"
    );
    assert_eq!(shard.prolong(written(5, &[9], END + 50)), (0, false));
    shard.release(1, 5, Action::Retry, Some(START_MS + 50), 6);
    assert_eq!(shard.prolong(written(6, &[1], END + 50)), (0, false), "it waits");
    let mut simple = Shard::subscribed();
    simple.fill(Q, 1);
    simple.deliver(G, Q, 1, 5);
    assert_eq!(simple.prolong(written(5, &[0], END + 50)), (0, false));
}

/// Found by reading: a nack that was decided on an older state extended the lease, and renewals then kept it for ever.
#[test]
fn what_got_an_end_of_its_own_is_not_renewed_any_more() {
    let mut shard = leased(1);
    shard.prolong(written(5, &[0], START_MS));
    shard.release(0, 5, Action::Extend, Some(END - 1), 6);
    assert_eq!(shard.prolong(written(6, &[0], END + 50)), (0, false));
    assert_eq!(shard.prolong(renew(&[CLIENT], END + 1, 9)), (0, false));
    assert_eq!(shard.prolong(depart(&[CLIENT], START_MS, 9)), (0, false));
    assert_eq!(ends(&shard, 0), END - 1);
    shard.pass(LEASE_MS);
    shard.tick(9);
    assert_eq!(shard.in_flight(0).unwrap().at_ms, END - 1, "as asked, no backoff");
}

#[test]
fn the_next_delivery_has_to_be_written_out_again() {
    let mut shard = leased(1);
    shard.prolong(written(5, &[0], START_MS));
    shard.pass(LEASE_MS);
    shard.tick(9);
    shard.pass(BACKOFF_MS[0]);
    shard.deliver_as(G, Q, 1, 6, true);
    assert!(!shard.in_flight(0).unwrap().written);
}

#[test]
fn a_renewal_takes_what_ends_soon_of_the_clients_it_names() {
    let mut shard = leased(3);
    shard.prolong(written(5, &[0, 1, 2], START_MS));
    assert_eq!(shard.prolong(renew(&[CLIENT], END, 9)), (0, false), "not soon");
    assert_eq!(shard.prolong(renew(&[CLIENT + 1], END + 1, 9)), (0, false));
    assert_eq!(shard.prolong(renew(&[1, CLIENT, CLIENT], END + 1, 2)), (2, true));
    assert_eq!(shard.prolong(renew(&[1, CLIENT, CLIENT], END + 1, 2)), (1, false));
}

#[test]
fn what_was_leased_too_long_ago_is_not_renewed_and_takes_nobodys_place() {
    let mut shard = leased(2);
    shard.pass(10);
    shard.fill(Q, 1);
    shard.deliver_as(G, Q, 1, 6, true);
    shard.prolong(written(5, &[0, 1], START_MS));
    shard.prolong(written(6, &[2], START_MS));
    let renew = Renew {
        clients: vec![CLIENT],
        before_ms: END + 11,
        until_ms: END + LEASE_MS,
        since_ms: START_MS + 10,
        limit: 1,
    };
    assert_eq!(shard.prolong(command(Kind::Renew(renew))), (1, false));
    assert_eq!((ends(&shard, 0), ends(&shard, 2)), (END, END + LEASE_MS));
}

#[test]
fn holders_are_found_one_by_one_with_the_end_of_what_was_written_out() {
    let mut shard = leased(2);
    shard.subscribe(G_OTHER, Q, StartAt::First);
    shard.deliver(G_OTHER, Q, 2, 6);
    assert_eq!(shard.core.holders(0, 9), [(CLIENT, None)]);
    shard.prolong(written(5, &[1], START_MS));
    assert_eq!(shard.core.holders(CLIENT, 9), [(CLIENT, Some(END))]);
    assert_eq!(shard.core.holders(CLIENT + 1, 9), []);
    assert_eq!(shard.core.holders(0, 0), []);
    shard.ack(G, Q, &[(0, 5), (1, 5)]);
    assert_eq!(shard.core.holders(0, 9), [], "simple consumers hold their own");
}

#[test]
fn a_departed_clients_leases_end_soon_and_count_until_then() {
    let mut shard = leased(3);
    shard.prolong(written(5, &[2], END + 50));
    assert!(shard.core.holds_beyond(CLIENT, START_MS + 20));
    assert_eq!(shard.prolong(depart(&[CLIENT], START_MS + 20, 2)), (2, true));
    assert_eq!(shard.prolong(depart(&[CLIENT], START_MS + 20, 2)), (1, false));
    assert!(!shard.core.holds_beyond(CLIENT, START_MS + 20));
    assert_eq!(
        shard.prolong(renew(&[CLIENT], END, 9)),
        (0, false),
        "and are not renewed"
    );
    shard.ack(G, Q, &[(0, 5)]);
    assert_eq!(shard.view(G, Q).acked, 1);
    shard.pass(20);
    assert_eq!(shard.tick(9).0, 2);
    assert_eq!(shard.deliver(G, Q, 9, 6).len(), 2, "without a wait");
}

#[test]
fn a_departure_makes_no_lease_longer() {
    let mut shard = leased(1);
    shard.prolong(written(5, &[0], START_MS));
    shard.prolong(depart(&[CLIENT], END + 50, 9));
    assert_eq!(ends(&shard, 0), END);
}

#[test]
fn a_leader_that_is_behind_renews_for_no_shorter_time() {
    let mut shard = leased(1);
    shard.prolong(written(5, &[0], START_MS));
    shard.pass(100);
    shard.tick(0);
    shard.now_ms -= 60;
    shard.prolong(renew(&[CLIENT], END, 9));
    assert_eq!(ends(&shard, 0), END + 60 + LEASE_MS);
}

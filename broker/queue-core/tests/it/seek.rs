//! Seek.

use flotilla_proto::record::StartAt;
use queue_core::{AckResult, GroupId, QueueId, Refusal, Reply};

use crate::support::{G, LEASE_MS, Q, Shard, offsets, seek};

fn sought(at: u64) -> Reply {
    Reply::Sought { at: Some(at) }
}

#[test]
fn a_consumer_group_goes_on_from_where_it_is_told_and_what_it_had_is_over() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 9);
    shard.deliver(G, Q, 4, 5);
    assert_eq!(shard.ack(G, Q, &[(0, 5)]), [AckResult::Done]);
    assert_eq!(shard.apply(seek((G, Q, 2, 99), 0, 7)), sought(2));
    assert_eq!(shard.ack(G, Q, &[(1, 5)]), [AckResult::Stale]);
    let view = shard.view(G, Q);
    assert_eq!(
        (view.cursor, view.acked, view.leased, view.ready, view.epoch),
        (2, 0, 0, 7, 1)
    );
    let again = shard.deliver(G, Q, 3, 6);
    assert_eq!(offsets(&again), [2, 3, 4]);
    assert!(again.iter().all(|lease| lease.attempt == 1));
    assert_eq!(shard.apply(seek((G, Q, 8, 99), 1, 7)), sought(8));
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 7)), [8]);
}

#[test]
fn it_goes_no_further_than_there_are_messages() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 5);
    shard.trim(Q, 2, 9);
    assert_eq!(shard.apply(seek((G, Q, 0, 9), 0, 7)), sought(2));
    assert_eq!(shard.apply(seek((G, Q, u64::MAX, 9), 1, 7)), sought(5));
    let nobody = Reply::Refused(Refusal::NoSubscription);
    assert_eq!(shard.apply(seek((77, Q, 0, 9), 0, 7)), nobody);
}

#[test]
fn a_seek_in_steps_delivers_nothing_before_it_is_done_and_whoever_leads_goes_on() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 6);
    shard.deliver(G, Q, 3, 5);
    assert_eq!(shard.apply(seek((G, Q, 1, 2), 0, 7)), Reply::Sought { at: None });
    assert_eq!(shard.view(G, Q).seeks_to, Some(1));
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 6)), [] as [u64; 0]);
    shard.pass(LEASE_MS);
    assert_eq!(shard.tick(9), (1, 0, false));
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 6)), [] as [u64; 0]);
    let rest = shard.core.next_seek(9).unwrap();
    assert_eq!((rest.group, rest.queue, rest.to), (G, Q, 1));
    assert_eq!(
        shard.apply(seek((G, Q, rest.to, rest.limit), rest.epoch, rest.id)),
        sought(1)
    );
    assert_eq!(shard.core.next_seek(9), None);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 6)), [1, 2, 3, 4, 5]);
}

#[test]
fn a_seek_that_comes_late_or_twice_does_nothing_more() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 6);
    assert_eq!(shard.apply(seek((G, Q, 4, 9), 0, 7)), sought(4));
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 5)), [4, 5]);
    assert_eq!(
        shard.apply(seek((G, Q, 4, 9), 0, 7)),
        sought(4),
        "it is done, as was told before"
    );
    let outdated = Reply::Refused(Refusal::Outdated);
    assert_eq!(
        shard.apply(seek((G, Q, 0, 9), 0, 8)),
        outdated,
        "another one came first"
    );
    assert_eq!(shard.view(G, Q).leased, 2);
    assert_eq!(shard.apply(seek((G, Q, 1, 9), 1, 8)), sought(1));
    assert_eq!(shard.apply(seek((G, Q, 4, 9), 0, 7)), outdated);
    assert_eq!(shard.view(G, Q).cursor, 1);
}

#[test]
fn a_deleted_consumer_group_seeks_no_more() {
    let mut shard = Shard::subscribed();
    shard.fill(Q, 3);
    shard.deliver(G, Q, 3, 5);
    shard.apply(seek((G, Q, 1, 1), 0, 7));
    assert!(!shard.drop_group(G, 99));
    assert_eq!(shard.core.next_seek(9), None);
    shard.subscribe(G, Q, StartAt::First);
    assert_eq!(offsets(&shard.deliver(G, Q, 9, 6)), [0, 1, 2]);
}

#[test]
fn a_date_is_found_exactly() {
    let mut shard = Shard::new();
    let mut expected = Vec::new();
    for date in [10, 10, 12, 12, 12, 15, 20] {
        shard.wall_ms = date;
        shard.fill(Q, 1);
        expected.push(date);
    }
    shard.trim(Q, 1, 9);
    for date in 0..25 {
        let first = (1..7).find(|&at| expected[at] >= date).unwrap_or(7) as u64;
        let found = shard.core.offset_at(&shard.kv, QueueId(Q), date).unwrap();
        assert_eq!(found, first, "{date}");
    }
    assert_eq!(shard.core.offset_at(&shard.kv, QueueId(77), 5), Ok(0));
    assert_eq!(shard.core.cursor(GroupId(G), QueueId(Q)), None);
}

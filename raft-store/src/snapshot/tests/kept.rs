//! What is kept for a snapshot: what is all there stays until its state is in use, and nothing else on a full disk.

use super::*;

/// A receiver with all of a snapshot, and its records in segments that are closed.
async fn complete(from: &Side, sending: &Sending, to: &Side) -> Inbox {
    let mut inbox = to.snapshots.inbox();
    send_until(from, sending, &mut inbox, is_end).await;
    close_segments(to).await;
    inbox
}

async fn close_segments(side: &Side) {
    let log = &side.snapshots.log;
    while log.highest_through(u64::MAX).get(&SHARD) != Some(&LAST) {
        log.save_vote(SHARD, vec![1; 1 << 20].into()).await.unwrap();
    }
}

async fn recycle_all(side: &Side) {
    let log = &side.snapshots.log;
    let closed = log.segments().into_iter().rfind(|segment| !segment.open).unwrap();
    log.recycle_through(closed.sequence).await.unwrap();
}

#[tokio::test]
async fn what_is_being_installed_stays_however_long_that_takes_and_however_full_the_disk_is() {
    let (from, to) = (sender().await, receiver().await);
    let sending = from.sending().await;
    for installed in [false, true] {
        let mut inbox = complete(&from, &sending, &to).await;
        let later = now() + Duration::from_millis(2 * SNAPSHOT_IMAGE_MS);
        let written = u64::MAX;
        assert_eq!(to.snapshots.holds.oldest_at(later, written), Some(OLDEST));
        to.disk.set_capacity(0);
        fill(&to.snapshots.log).await;
        assert_eq!(to.snapshots.held(), Some(OLDEST));
        to.disk.set_capacity(u64::MAX);
        inbox.finished("a", installed);
        assert_eq!(to.snapshots.held(), None);
    }
}

#[tokio::test]
async fn records_that_went_before_a_snapshot_was_all_there_are_asked_for_again() {
    let (from, to) = (sender().await, receiver().await);
    let sending = from.sending().await;
    let mut inbox = to.snapshots.inbox();
    let half = |at: &Place| matches!(at, Place::Pair(key) if !key.is_empty());
    let mut at = send_until(&from, &sending, &mut inbox, half).await.pop().unwrap();
    let last = loop {
        let part = chunk(&from, &sending, "a", &at).await;
        if part.to == Some(Place::End.to_proto()) {
            break part;
        }
        at = next(&mut inbox, part).await;
    };
    close_segments(&to).await;
    // Whoever gives up segments has seen that nothing is held any more, and is not done.
    let recycling = to.snapshots.traffic.recycling().await;
    let mut taken = Box::pin(inbox.take(last));
    let patience = Duration::from_millis(200);
    assert!(tokio::time::timeout(patience, &mut taken).await.is_err());
    recycle_all(&to).await;
    drop(recycling);
    let Finish::NotYet(wanted) = taken.await.unwrap() else {
        panic!("taken for complete")
    };
    assert_eq!(wanted.next, Place::Record(OLDEST));
}

#[tokio::test]
async fn a_full_disk_gives_up_what_is_held_and_an_image_whose_records_are_gone() {
    let from = sender().await;
    let sending = from.sending().await;
    let log = &from.snapshots.log;
    sending.hold.moved(OLDEST);
    assert_eq!(from.snapshots.held(), Some(OLDEST));
    from.disk.set_capacity(0);
    fill(log).await;
    assert_eq!(from.snapshots.held(), None);
    let closed = log.segments().into_iter().rfind(|segment| !segment.open).unwrap();
    log.recycle_through(closed.sequence).await.unwrap();
    assert!(
        from.snapshots
            .piece(&sending, Place::Record(OLDEST))
            .await
            .is_err()
    );
    assert!(from.snapshots.reusable(None).is_none());
}

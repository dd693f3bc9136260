//! Snapshots from one store to another, part by part.

use bytes::Bytes;
use flotilla_proto::peer::SnapshotChunk;

use super::*;
use crate::{
    disk::{SimDisk, is_full, sim::Loss},
    engine::{EngineError, memory::MemoryEngine},
    limits::{SNAPSHOT_HOLD_BYTES, SNAPSHOT_IMAGE_MS, SNAPSHOT_PIECE_BYTES},
    log::LogOptions,
    machine::{Applied, StateRead, StateWrite},
    record::{Kind, Record},
    state::ShardView,
    transport::Nobody,
};

mod kept;
mod pieces;

const SHARD: u32 = 5;
/// The last entry of a sender; its state refers to those from the third on.
const LAST: u64 = 40;
const OLDEST: u64 = 3;
/// A batch without records.
const IDLE_BATCH_BYTES: u64 = 48;

struct Nothing;

impl Machine for Nothing {
    fn restore(&self, _state: &dyn StateRead) -> Result<(), EngineError> {
        Ok(())
    }

    fn apply(&self, _: LogId, _: &Bytes, _: &mut dyn StateWrite) -> Result<Applied, EngineError> {
        Ok(Applied::none())
    }

    fn oldest_live_index(&self, _state: &dyn StateRead) -> Result<Option<u64>, EngineError> {
        Ok(Some(OLDEST))
    }
}

/// A replica's storage, and what it lies on.
struct Side {
    disk: SimDisk,
    engine: MemoryEngine,
    snapshots: Arc<Snapshots>,
}

fn id(index: u64) -> LogId {
    LogId {
        term: 2,
        node: 1,
        index,
    }
}

/// Records of 100 KiB: eleven make a part.
fn record(index: u64) -> Bytes {
    Record::encode(Kind::Normal, SHARD, id(index), &[index as u8; 100 << 10])
}

async fn open(disk: SimDisk, engine: MemoryEngine, traffic: Traffic) -> Side {
    let options = LogOptions {
        segment_bytes: 4 << 20,
        keep_free_bytes: 1 << 20,
        cache_bytes: 64 << 10,
        ..LogOptions::new(1)
    };
    let log = NodeLog::open(disk.mount(), options).await.unwrap();
    let state = Arc::new(ShardState::open(SHARD, engine.mount()).unwrap());
    let health = Health::new();
    let repairs = Repairs::new(
        SHARD,
        log.clone(),
        health.clone(),
        Arc::new(Nobody),
        Duration::ZERO,
    );
    let snapshots = Arc::new(Snapshots::new(state, log, health, traffic, repairs));
    Side {
        disk,
        engine,
        snapshots,
    }
}

async fn receiver() -> Side {
    open(
        SimDisk::new(2),
        MemoryEngine::new(),
        Traffic::new(SNAPSHOT_PIECE_BYTES),
    )
    .await
}

/// Writes votes until the log says that its disk is full; the last of them may have to wait for room.
async fn fill(log: &NodeLog) {
    let full = async || {
        while log.has_room() {
            tokio::task::yield_now().await;
        }
    };
    while log.has_room() {
        tokio::select! {
            biased;
            saved = log.save_vote(SHARD, vec![1; 1 << 20].into()) => saved.unwrap(),
            () = full() => {}
        }
    }
}

/// A replica with entries and a state of three parts.
async fn sender() -> Side {
    let side = open(
        SimDisk::new(1),
        MemoryEngine::new(),
        Traffic::new(SNAPSHOT_PIECE_BYTES),
    )
    .await;
    let log = &side.snapshots.log;
    for first in (1..=LAST).step_by(10) {
        let (done, stored) = tokio::sync::oneshot::channel();
        let records = (first..first + 10).map(record).collect();
        let done = move |result| done.send(result).unwrap();
        log.append(SHARD, records, done).unwrap();
        stored.await.unwrap().unwrap();
    }
    let fill = |state: &mut dyn StateWrite, standing: &mut Standing| {
        standing.applied = Some(convert::to_raft(id(LAST)));
        for i in 0..3_000u32 {
            state.put(&i.to_be_bytes(), &[7; 1 << 10]);
        }
        Ok(())
    };
    side.snapshots.state.with_write(fill).unwrap();
    side
}

impl Side {
    async fn sending(&self) -> Sending {
        let (view, section, standing) = self.snapshots.state.view().unwrap();
        let image = StateImage {
            shard: SHARD,
            view,
            section,
            standing,
            oldest: Some(OLDEST),
            log: self.snapshots.log.clone(),
            taken: now(),
        };
        self.snapshots.send(Arc::new(image)).unwrap()
    }

    /// Power loss, and a new start with what is left.
    async fn restart(self) -> Side {
        self.engine.crash(0);
        self.restart_flushed().await
    }

    async fn restart_flushed(self) -> Side {
        self.disk.crash(Loss::All);
        open(self.disk, self.engine, Traffic::new(SNAPSHOT_PIECE_BYTES)).await
    }

    fn pairs(&self) -> Vec<(Bytes, Bytes)> {
        let state = &self.snapshots.state;
        let all = |state: &dyn StateRead, _: &Standing| state.scan(&[], &[], usize::MAX).unwrap();
        state.with_read(all)
    }

    fn staged(&self, section: u8) -> usize {
        let (view, ..) = self.snapshots.state.view().unwrap();
        let staged = ShardView::new(SHARD, section, &*view);
        staged.scan(&[], &[], usize::MAX).unwrap().len()
    }
}

fn asks(sending: &Sending, name: &str) -> SnapshotChunk {
    SnapshotChunk {
        id: name.into(),
        head: Some(sending.outline.head(SHARD)),
        ..SnapshotChunk::default()
    }
}

async fn chunk(from: &Side, sending: &Sending, name: &str, at: &Place) -> SnapshotChunk {
    let piece = from.snapshots.piece(sending, at.clone()).await.unwrap();
    SnapshotChunk {
        from: Some(piece.from.to_proto()),
        to: Some(piece.to.to_proto()),
        data_crc32c: crc32c::crc32c(&piece.data),
        data: piece.data,
        ..asks(sending, name)
    }
}

async fn next(inbox: &mut Inbox, chunk: SnapshotChunk) -> Place {
    match inbox.take(chunk).await.unwrap() {
        Finish::NotYet(wanted) => wanted.next,
        Finish::Now(wanted, _) => wanted.next,
    }
}

/// Sends what is wanted until `enough`; answers the places that were asked for.
async fn send_until(
    from: &Side,
    sending: &Sending,
    inbox: &mut Inbox,
    enough: impl Fn(&Place) -> bool,
) -> Vec<Place> {
    let mut places = vec![next(inbox, asks(sending, "a")).await];
    while !enough(places.last().unwrap()) {
        let at = places.last().unwrap().clone();
        let sent = chunk(from, sending, "a", &at).await;
        let wanted = next(inbox, sent).await;
        assert!(wanted > at, "{wanted:?} after {at:?}");
        places.push(wanted);
    }
    places
}

async fn install(side: &Side, sending: &Sending) {
    let standing = sending.outline.standing.clone();
    let machine: Arc<dyn Machine> = Arc::new(Nothing);
    side.snapshots
        .install(standing, SnapshotData::Staged, &machine)
        .await
        .unwrap();
}

fn check_installed(side: &Side, from: &Side) {
    assert!(side.pairs() == from.pairs());
    assert_eq!(side.snapshots.state.applied(), from.snapshots.state.applied());
    for index in OLDEST..=LAST {
        let stored = side.snapshots.log.read_record(SHARD, index).unwrap();
        assert!(stored == record(index), "record {index}");
    }
    assert_eq!(side.snapshots.log.shard(SHARD).purged, Some(id(LAST)));
}

fn is_pair(place: &Place) -> bool {
    matches!(place, Place::Pair(_))
}

fn is_end(place: &Place) -> bool {
    *place == Place::End
}

#[tokio::test]
async fn a_snapshot_costs_its_sender_no_room_and_arrives_as_it_was() {
    let (from, to) = (sender().await, receiver().await);
    from.disk.set_capacity(0);
    let stored = || {
        let others = from
            .disk
            .files()
            .into_iter()
            .filter(|name| !name.starts_with("log/"));
        (others.collect::<Vec<_>>(), from.engine.unflushed())
    };
    let written = || from.snapshots.log.stats().bytes_written;
    let (before, written_before) = (stored(), written());
    let sending = from.sending().await;
    let mut inbox = to.snapshots.inbox();
    let places = send_until(&from, &sending, &mut inbox, is_end).await;
    assert!(places.len() >= 7, "{places:?}");
    assert_eq!(stored(), before);
    // A log that becomes idle says so with the head of a batch, which has nothing to do with the snapshot.
    assert!(written() - written_before <= IDLE_BATCH_BYTES);
    install(&to, &sending).await;
    check_installed(&to, &from);
    assert_eq!((to.staged(1), to.staged(2)), (0, 3_000));
    let again = open(
        to.disk.fork(),
        to.engine.clone(),
        Traffic::new(SNAPSHOT_PIECE_BYTES),
    )
    .await;
    check_installed(&again, &from);
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let (from, to) = (sender().await, receiver().await);
    let sending = from.sending().await;
    let mut inbox = to.snapshots.inbox();
    let start = Place::Record(OLDEST);
    assert_eq!(next(&mut inbox, asks(&sending, "a")).await, start);
    let first = chunk(&from, &sending, "a", &start).await;
    let damaged = SnapshotChunk {
        data_crc32c: first.data_crc32c ^ 1,
        ..first.clone()
    };
    assert_eq!(next(&mut inbox, damaged).await, start);
    let second = next(&mut inbox, first.clone()).await;
    assert_eq!(second, Place::Record(OLDEST + 11));
    // The sender starts over, repeats itself, and skips ahead.
    assert_eq!(next(&mut inbox, asks(&sending, "a")).await, second);
    assert_eq!(next(&mut inbox, first).await, second);
    let ahead = chunk(&from, &sending, "a", &Place::Record(30)).await;
    assert_eq!(next(&mut inbox, ahead).await, second);
    send_until(&from, &sending, &mut inbox, is_end).await;
    install(&to, &sending).await;
    inbox.finished("a", true);
    let Finish::NotYet(wanted) = inbox.take(asks(&sending, "a")).await.unwrap() else {
        panic!("again")
    };
    assert!(wanted.installed);
    check_installed(&to, &from);
}

#[tokio::test]
async fn a_receiver_that_lost_power_goes_on_where_it_was() {
    let (from, to) = (sender().await, receiver().await);
    let sending = from.sending().await;
    let mut inbox = to.snapshots.inbox();
    send_until(&from, &sending, &mut inbox, |at| *at > Place::Record(20)).await;
    let to = to.restart().await;
    let mut inbox = to.snapshots.inbox();
    let places = send_until(
        &from,
        &sending,
        &mut inbox,
        |at| matches!(at, Place::Pair(key) if !key.is_empty()),
    )
    .await;
    assert!(places[0] > Place::Record(20), "{places:?}");
    // In the middle of the state, and what of it was flushed is not sent again.
    let reached = places.last().unwrap().clone();
    to.snapshots.state.engine().flush().unwrap();
    let to = to.restart().await;
    let mut inbox = to.snapshots.inbox();
    let places = send_until(&from, &sending, &mut inbox, is_end).await;
    assert_eq!(places[0], reached);
    install(&to, &sending).await;
    check_installed(&to, &from);
}

#[tokio::test]
async fn a_crash_anywhere_in_an_installation_leaves_the_old_state_or_the_new_one() {
    let from = sender().await;
    for survivors in 0.. {
        let to = receiver().await;
        let sending = from.sending().await;
        let mut inbox = to.snapshots.inbox();
        send_until(&from, &sending, &mut inbox, is_end).await;
        let state = to.snapshots.state.clone();
        state.begin_install(&sending.outline.standing).unwrap();
        // As the installation goes on; the last flush is taken for one that came too late.
        to.snapshots.log.purge(SHARD, id(LAST)).await.unwrap();
        let switched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            state.switch(sending.outline.standing.clone(), |_| {
                panic!("the end of the process")
            })
        }));
        assert!(switched.is_err());
        let unflushed = to.engine.unflushed();
        to.engine.crash(survivors);
        let to = to.restart_flushed().await;
        let machine: Arc<dyn Machine> = Arc::new(Nothing);
        to.snapshots.resume(&machine).await.unwrap();
        check_installed(&to, &from);
        assert_eq!(to.snapshots.state.installing().unwrap(), None);
        if survivors > unflushed {
            break;
        }
    }
}

#[tokio::test]
async fn another_snapshot_replaces_the_one_under_way_and_its_records_stay() {
    let (from, to) = (sender().await, receiver().await);
    let sending = from.sending().await;
    let mut inbox = to.snapshots.inbox();
    let places = send_until(
        &from,
        &sending,
        &mut inbox,
        |at| matches!(at, Place::Pair(key) if !key.is_empty()),
    )
    .await;
    assert!(to.staged(2) > 0, "{places:?}");
    assert_eq!(
        next(&mut inbox, asks(&sending, "b")).await,
        Place::Pair(Bytes::new())
    );
    assert_eq!(to.staged(2), 0);
}

#[tokio::test]
async fn a_receiver_without_room_takes_nothing_until_it_has_some() {
    let (from, to) = (sender().await, receiver().await);
    let sending = from.sending().await;
    let mut inbox = to.snapshots.inbox();
    send_until(&from, &sending, &mut inbox, is_pair).await;
    to.disk.set_capacity(0);
    let first = chunk(&from, &sending, "a", &Place::Pair(Bytes::new())).await;
    let error = inbox.take(first.clone()).await.unwrap_err();
    assert!(is_full(&error), "{error}");
    assert_eq!(to.staged(2), 0);
    to.disk.set_capacity(u64::MAX);
    assert!(next(&mut inbox, first).await > Place::Pair(Bytes::new()));
}

#[tokio::test]
async fn no_more_than_so_many_snapshots_are_under_way() {
    let (from, traffic) = (sender().await, Traffic::new(SNAPSHOT_PIECE_BYTES));
    let sending = from.sending().await;
    let mut inboxes = Vec::new();
    for seed in 0..=MAX_SNAPSHOTS_IN {
        let side = open(SimDisk::new(seed as u64), MemoryEngine::new(), traffic.clone()).await;
        inboxes.push(side.snapshots.inbox());
    }
    let (last, others) = inboxes.split_last_mut().unwrap();
    for inbox in others.iter_mut() {
        assert_eq!(next(inbox, asks(&sending, "a")).await, Place::Record(OLDEST));
    }
    let error = last.take(asks(&sending, "a")).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    inboxes.remove(0);
    let last = inboxes.last_mut().unwrap();
    assert_eq!(next(last, asks(&sending, "a")).await, Place::Record(OLDEST));

    let mut more = Vec::new();
    for _ in 1..MAX_SNAPSHOTS_OUT {
        more.push(from.sending().await);
    }
    let refused = from.snapshots.send(sending.image.clone());
    assert_eq!(refused.err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
    drop(more);
    assert!(from.snapshots.send(sending.image.clone()).is_ok());
}

#[tokio::test]
async fn what_is_being_sent_stays_and_moves_on_with_the_receiver() {
    let from = sender().await;
    let sending = from.sending().await;
    // A receiver that takes nothing keeps nothing, however often it is tried.
    assert_eq!(from.snapshots.held(), None);
    sending.hold.moved(20);
    assert_eq!(from.snapshots.held(), Some(20));
    let second = from.sending().await;
    second.hold.moved(OLDEST + 1);
    assert_eq!(from.snapshots.held(), Some(OLDEST + 1));
    drop(second);
    assert_eq!(from.snapshots.held(), Some(20));
    drop(sending);
    assert_eq!(from.snapshots.held(), None);
}

#[tokio::test]
async fn a_receiver_that_is_stuck_keeps_nothing_from_being_given_up() {
    let from = sender().await;
    let sending = from.sending().await;
    sending.hold.moved(OLDEST);
    let (holds, begun) = (&from.snapshots.holds, now());
    let after = |ms: u64| begun + Duration::from_millis(ms);
    assert_eq!(holds.oldest_at(after(SNAPSHOT_STALL_MS / 2), 0), Some(OLDEST));
    assert_eq!(holds.oldest_at(after(2 * SNAPSHOT_STALL_MS), 0), None);
    let written = from.snapshots.log.stats().bytes_written;
    assert_eq!(
        holds.oldest_at(begun, written + SNAPSHOT_HOLD_BYTES - 1),
        Some(OLDEST)
    );
    assert_eq!(holds.oldest_at(begun, written + SNAPSHOT_HOLD_BYTES), None);
    assert!(!sending.image.expired(after(SNAPSHOT_IMAGE_MS / 2)));
    assert!(sending.image.expired(after(SNAPSHOT_IMAGE_MS + 1_000)));
}

#[tokio::test]
async fn a_head_that_no_leader_would_send_is_refused() {
    let (from, to) = (sender().await, receiver().await);
    let sending = from.sending().await;
    let head = sending.outline.head(SHARD);
    let mut last = head.clone();
    last.applied.as_mut().unwrap().index = u64::MAX;
    let mut beyond = head.clone();
    beyond.oldest = LAST + 2;
    let mut later = head;
    later.membership.as_mut().unwrap().log_id = Some(convert::to_proto(&convert::to_raft(id(LAST + 1))));
    for bad in [last, beyond, later] {
        let chunk = SnapshotChunk {
            head: Some(bad),
            ..asks(&sending, "a")
        };
        let refused = to.snapshots.inbox().take(chunk).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}

//! Snapshot files, and how they arrive.

use flotilla_proto::{peer::SnapshotChunk, record::SnapshotHead};

use super::{
    file::{Writer, verify},
    *,
};
use crate::{
    disk::{SimDisk, sim::Loss},
    log::LogOptions,
    record::{Kind, Record},
    types::StoredMembership,
};

const SHARD: u32 = 5;

fn standing() -> Standing {
    let applied = convert::to_raft(LogId {
        term: 2,
        node: 1,
        index: 9,
    });
    Standing {
        applied: Some(applied),
        membership: StoredMembership::default(),
    }
}

fn record(index: u64) -> Bytes {
    Record::encode(
        Kind::Normal,
        SHARD,
        LogId {
            term: 2,
            node: 1,
            index,
        },
        b"payload",
    )
}

/// A small file with all kinds of frames.
fn write_file(disk: &Arc<dyn Disk>, name: &str) {
    disk.create_dir(DIRECTORY).unwrap();
    let mut writer = Writer::create(disk.open(name, true).unwrap(), &head_of(SHARD, &standing())).unwrap();
    for index in 5..=9 {
        writer.record(&record(index)).unwrap();
    }
    for i in 0..20u8 {
        writer.pair(&[b'k', i], &vec![i; usize::from(i)]).unwrap();
    }
    writer.finish().unwrap();
}

fn read_all(disk: &dyn Disk, name: &str) -> io::Result<(SnapshotHead, Vec<Frame>)> {
    let (mut reader, head) = Reader::open(disk, name)?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next()? {
        frames.push(frame);
    }
    Ok((head, frames))
}

#[test]
fn a_file_comes_back_as_it_was_written() {
    let disk = SimDisk::new(1).mount();
    write_file(&disk, "snapshots/a");
    let (head, frames) = read_all(&*disk, "snapshots/a").unwrap();
    assert_eq!(head.shard, SHARD);
    assert_eq!(file::standing(&head), Some(standing()));
    let [Frame::Records(records), Frame::Pairs(pairs)] = &frames[..] else {
        panic!("{frames:?}")
    };
    assert_eq!(records[..], (5..=9).map(record).collect::<Vec<_>>());
    assert_eq!(pairs.len(), 20);
    assert_eq!(
        pairs[3],
        (Bytes::from_static(b"k\x03"), Bytes::from_static(&[3; 3]))
    );
}

#[test]
fn every_flipped_bit_of_a_file_is_noticed() {
    let hardware = SimDisk::new(1);
    write_file(&hardware.mount(), "snapshots/a");
    let size = hardware.read_file("snapshots/a").unwrap().len() as u64;
    for byte in 0..size {
        for bit in 0..8 {
            hardware.flip_bit("snapshots/a", byte, bit);
            let read = verify(&*hardware.mount(), "snapshots/a");
            assert!(read.is_err(), "bit {bit} of byte {byte}");
            hardware.flip_bit("snapshots/a", byte, bit);
        }
    }
    verify(&*hardware.mount(), "snapshots/a").unwrap();
}

#[test]
fn a_file_cut_short_anywhere_is_noticed() {
    let hardware = SimDisk::new(1);
    write_file(&hardware.mount(), "snapshots/a");
    let whole = hardware.read_file("snapshots/a").unwrap();
    for len in 0..whole.len() {
        hardware.write_file("snapshots/b", &whole[..len]);
        assert!(
            verify(&*hardware.mount(), "snapshots/b").is_err(),
            "{len} of {} bytes",
            whole.len()
        );
    }
    hardware.write_file("snapshots/b", &[&whole[..], &[0]].concat());
    assert!(verify(&*hardware.mount(), "snapshots/b").is_err());
}

/// A receiver, and the bytes of a file for it.
async fn receiver() -> (SimDisk, Arc<Snapshots>, Vec<u8>) {
    let hardware = SimDisk::new(1);
    let disk = hardware.mount();
    write_file(&disk, "snapshots/source");
    let bytes = hardware.read_file("snapshots/source").unwrap();
    let options = LogOptions {
        segment_bytes: 1 << 16,
        keep_free_bytes: 0,
        ..LogOptions::new(1)
    };
    let log = NodeLog::open(disk.clone(), options).await.unwrap();
    (
        hardware,
        Arc::new(Snapshots::new(SHARD, disk, log, Health::new())),
        bytes,
    )
}

fn chunk(id: &str, bytes: &[u8], offset: usize, len: usize) -> SnapshotChunk {
    let data = Bytes::copy_from_slice(&bytes[offset..(offset + len).min(bytes.len())]);
    SnapshotChunk {
        id: id.into(),
        offset: offset as u64,
        data_crc32c: crc32c::crc32c(&data),
        data,
        total_size: bytes.len() as u64,
        ..SnapshotChunk::default()
    }
}

async fn next(inbox: &mut Inbox, chunk: SnapshotChunk) -> u64 {
    match inbox.take(chunk).await.unwrap() {
        Finish::NotYet(wanted) => wanted.next_offset,
        Finish::Now(..) => panic!("complete already"),
    }
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let (_, snapshots, bytes) = receiver().await;
    let mut inbox = snapshots.inbox();
    assert_eq!(next(&mut inbox, chunk("a", &bytes, 0, 100)).await, 100);
    assert_eq!(next(&mut inbox, chunk("a", &bytes, 100, 100)).await, 200);
    // The sender starts over, repeats itself, skips ahead, and sends damaged bytes.
    assert_eq!(next(&mut inbox, chunk("a", &bytes, 0, 100)).await, 200);
    assert_eq!(next(&mut inbox, chunk("a", &bytes, 100, 100)).await, 200);
    assert_eq!(next(&mut inbox, chunk("a", &bytes, 300, 100)).await, 200);
    let damaged = SnapshotChunk {
        data_crc32c: 1,
        ..chunk("a", &bytes, 200, 100)
    };
    assert_eq!(next(&mut inbox, damaged).await, 200);
    let Finish::Now(wanted, complete) = inbox.take(chunk("a", &bytes, 200, usize::MAX / 2)).await.unwrap()
    else {
        panic!("not complete")
    };
    assert_eq!(wanted.next_offset, bytes.len() as u64);
    let file = complete.check().await.unwrap();
    assert_eq!((file.size, &file.standing), (bytes.len() as u64, &standing()));
    inbox.finished("a", true);
    let Finish::NotYet(wanted) = inbox.take(chunk("a", &bytes, 0, 100)).await.unwrap() else {
        panic!("again")
    };
    assert!(wanted.installed);
}

#[tokio::test]
async fn another_snapshot_replaces_the_one_under_way() {
    let (hardware, snapshots, bytes) = receiver().await;
    let mut inbox = snapshots.inbox();
    assert_eq!(next(&mut inbox, chunk("a", &bytes, 0, 100)).await, 100);
    assert_eq!(next(&mut inbox, chunk("b", &bytes, 0, 50)).await, 50);
    assert_eq!(next(&mut inbox, chunk("a", &bytes, 100, 100)).await, 0);
    assert_eq!(
        hardware
            .files()
            .iter()
            .filter(|name| name.ends_with(".part"))
            .count(),
        1
    );
}

#[tokio::test]
async fn a_snapshot_that_is_not_one_is_thrown_away() {
    let (hardware, snapshots, mut bytes) = receiver().await;
    bytes[200] ^= 1;
    let mut inbox = snapshots.inbox();
    let Finish::Now(_, complete) = inbox.take(chunk("a", &bytes, 0, bytes.len())).await.unwrap() else {
        panic!("not complete")
    };
    assert!(complete.check().await.is_err());
    inbox.finished("a", false);
    assert!(!hardware.files().iter().any(|name| name.contains("-in")));
    assert_eq!(next(&mut inbox, chunk("a", &bytes, 0, 100)).await, 100);
}

#[tokio::test]
async fn a_received_file_survives_a_power_loss() {
    let (hardware, snapshots, bytes) = receiver().await;
    let mut inbox = snapshots.inbox();
    let Finish::Now(_, complete) = inbox.take(chunk("a", &bytes, 0, bytes.len())).await.unwrap() else {
        panic!("not complete")
    };
    let file = complete.check().await.unwrap();
    hardware.crash(Loss::All);
    verify(&*hardware.mount(), &file.name).unwrap();
}

#[tokio::test]
async fn a_file_goes_with_the_last_who_needs_it() {
    let (hardware, snapshots, bytes) = receiver().await;
    let mut inbox = snapshots.inbox();
    let Finish::Now(_, complete) = inbox.take(chunk("a", &bytes, 0, bytes.len())).await.unwrap() else {
        panic!("not complete")
    };
    let file = complete.check().await.unwrap();
    let name = file.name.clone();
    assert!(hardware.files().contains(&name));
    drop(file);
    assert!(!hardware.files().contains(&name));
}

/// Format version 1, as the first release wrote it. Never written again.
const GOLDEN: &[u8] = include_bytes!("../../tests/golden/v1/snapshot");

#[test]
fn a_snapshot_of_version_1_is_read_and_written_as_ever() {
    let hardware = SimDisk::new(1);
    hardware.mount().create_dir(DIRECTORY).unwrap();
    hardware.write_file("snapshots/golden", GOLDEN);
    verify(&*hardware.mount(), "snapshots/golden").unwrap();
    write_file(&hardware.mount(), "snapshots/a");
    assert!(hardware.read_file("snapshots/a").unwrap() == GOLDEN);
}

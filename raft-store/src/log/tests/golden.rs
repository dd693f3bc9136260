//! A data directory written by format version 1 stays readable.
//!
//! `tests/golden/v1` is never written again; a new format version gets a directory of its own, written by
//! `write_the_golden_directory`.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::model::entry;
use super::model::id;
use crate::disk::RealDisk;
use crate::log::LogOptions;
use crate::log::NodeLog;
use crate::log::ReadError;
use crate::log::ShardState;
use crate::log::segment::FORMAT_VERSION;
use crate::record::Kind;
use crate::record::Record;

fn golden_options() -> LogOptions {
    let directory = 0x0123_4567_89ab_cdef;
    LogOptions {
        segment_bytes: 4 << 10,
        cache_bytes: 0,
        keep_free_bytes: 0,
        ..LogOptions::new(directory)
    }
}

fn golden(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}"))
}

fn membership() -> Bytes {
    Record::encode(Kind::Membership, 2, id(3, 0), b"members")
}

/// Something of every kind of record, in several segments.
async fn write(log: &NodeLog) {
    log.save_vote(1, Bytes::from_static(b"vote of shard 1"))
        .await
        .unwrap();
    for index in 0..20 {
        log.append(
            1,
            vec![entry(1, id(1 + index / 10, index), 100 * (index as usize % 4))],
            |_| (),
        )
        .unwrap();
    }
    log.truncate_after(1, Some(id(2, 17))).await.unwrap();
    log.append(
        1,
        vec![entry(1, id(4, 18), 10), entry(1, id(4, 19), 1500)],
        |_| (),
    )
    .unwrap();
    log.purge(1, id(1, 2)).await.unwrap();
    log.append(2, vec![membership(), entry(2, id(3, 1), 0)], |_| ())
        .unwrap();
    log.append(3, vec![entry(3, id(1, 0), 5)], |_| ()).unwrap();
    log.drop_shard(3).await.unwrap();
    log.append(4, vec![entry(4, id(1, 0), 5)], |_| ()).unwrap();
    log.truncate_after(4, None).await.unwrap();
    let imported = (5..9).map(|index| entry(5, id(2, index), 200)).collect();
    log.import(5, imported).await.unwrap();
    log.purge(5, id(2, 8)).await.unwrap();
    log.append(5, vec![entry(5, id(2, 9), 1200)], |_| ()).unwrap();
    log.save_vote(5, Bytes::from_static(b"vote of shard 5"))
        .await
        .unwrap();
    log.save_committed(1, id(4, 18));
}

fn check(log: &NodeLog) {
    let vote = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let states = [
        ShardState {
            purged: Some(id(1, 2)),
            last: Some(id(4, 19)),
            vote: vote("vote of shard 1"),
            committed: Some(id(4, 18)),
        },
        ShardState {
            last: Some(id(3, 1)),
            ..ShardState::default()
        },
        ShardState::default(),
        ShardState::default(),
        ShardState {
            purged: Some(id(2, 8)),
            last: Some(id(2, 9)),
            vote: vote("vote of shard 5"),
            committed: None,
        },
    ];
    for (shard, state) in (1..).zip(states) {
        assert_eq!(log.shard(shard), state, "shard {shard}");
    }
    for index in 0..18 {
        let expected = entry(1, id(1 + index / 10, index), 100 * (index as usize % 4));
        assert_eq!(log.read_record(1, index).unwrap(), expected);
    }
    let last = [entry(1, id(4, 18), 10), entry(1, id(4, 19), 1500)];
    assert_eq!(log.read(1, 18, 20, usize::MAX).unwrap(), last);
    assert_eq!(log.log_id(1, 17).unwrap(), Some(id(2, 17)));
    assert_eq!(
        log.read(2, 0, 2, usize::MAX).unwrap(),
        [membership(), entry(2, id(3, 1), 0)]
    );
    assert!(matches!(log.read_record(3, 0), Err(ReadError::NotFound { .. })));
    assert!(matches!(log.read_record(4, 0), Err(ReadError::NotFound { .. })));
    for index in 5..9 {
        assert_eq!(log.read_record(5, index).unwrap(), entry(5, id(2, index), 200));
    }
    assert_eq!(
        log.read(5, 9, 10, usize::MAX).unwrap(),
        [entry(5, id(2, 9), 1200)]
    );
}

#[tokio::test]
async fn a_directory_of_format_version_1_is_read_and_written_on() {
    for with_sidecars in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        for file in std::fs::read_dir(golden(1).join("log")).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            if with_sidecars || !name.ends_with(".idx") {
                std::fs::copy(file.path(), dir.path().join("log").join(name)).unwrap();
            }
        }
        let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
        let log = NodeLog::open(disk.clone(), golden_options()).await.unwrap();
        check(&log);
        log.append(2, vec![entry(2, id(9, 2), 3000)], |_| ()).unwrap();
        log.close().await;
        let log = NodeLog::open(disk, golden_options()).await.unwrap();
        check_all_but_shard_2(&log);
    }
}

fn check_all_but_shard_2(log: &NodeLog) {
    assert_eq!(log.shard(2).last, Some(id(9, 2)));
    assert_eq!(log.read(2, 2, 3, 0).unwrap(), [entry(2, id(9, 2), 3000)]);
    assert_eq!(log.shard(1).last, Some(id(4, 19)));
}

/// With `FLOTILLA_WRITE_GOLDEN=1` what is written here becomes the golden directory of a new format version.
#[tokio::test]
async fn what_this_build_writes_reads_like_the_golden_directory() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
    let log = NodeLog::open(disk.clone(), golden_options()).await.unwrap();
    write(&log).await;
    log.close().await;
    if std::env::var_os("FLOTILLA_WRITE_GOLDEN").is_some() {
        keep(dir.path());
    }
    let log = NodeLog::open(disk, golden_options()).await.unwrap();
    check(&log);
    log.close().await;
}

fn keep(written: &std::path::Path) {
    let log = golden(FORMAT_VERSION).join("log");
    assert!(
        !log.exists(),
        "{} is there already and must stay as it is",
        log.display()
    );
    std::fs::create_dir_all(&log).unwrap();
    for file in std::fs::read_dir(written.join("log")).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        if !name.starts_with("spare-") && !name.starts_with("next-") {
            std::fs::copy(file.path(), log.join(name)).unwrap();
        }
    }
}

//! What every engine must do, asked of each of them.

use std::sync::Arc;

use bytes::Bytes;

use super::{Change, Engine, WriteBatch, memory::MemoryEngine};

/// An engine that can be cut off and brought back with what it had made durable.
trait Hardware {
    fn mount(&mut self) -> Arc<dyn Engine>;
    /// What was not flushed is lost.
    fn crash(&mut self, engine: Arc<dyn Engine>) -> Arc<dyn Engine>;
}

impl Hardware for MemoryEngine {
    fn mount(&mut self) -> Arc<dyn Engine> {
        MemoryEngine::mount(self)
    }

    fn crash(&mut self, _engine: Arc<dyn Engine>) -> Arc<dyn Engine> {
        MemoryEngine::crash(self, 0);
        MemoryEngine::mount(self)
    }
}

fn put(key: &str, value: &str) -> Change {
    Change::Put(
        Bytes::copy_from_slice(key.as_bytes()),
        Bytes::copy_from_slice(value.as_bytes()),
    )
}

fn delete(key: &str) -> Change {
    Change::Delete(Bytes::copy_from_slice(key.as_bytes()))
}

fn delete_range(from: &str, to: &str) -> Change {
    Change::DeleteRange(
        Bytes::copy_from_slice(from.as_bytes()),
        Bytes::copy_from_slice(to.as_bytes()),
    )
}

fn write(engine: &dyn Engine, changes: Vec<Change>) {
    engine.write(WriteBatch { changes }).unwrap();
}

fn all(view: &dyn super::EngineView) -> String {
    let pairs = view.scan(b"", b"~", usize::MAX).unwrap();
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    pairs
        .iter()
        .map(|(key, value)| format!("{}={}", text(key), text(value)))
        .collect::<Vec<_>>()
        .join(" ")
}

fn changes_happen_in_order(hardware: &mut dyn Hardware) {
    let engine = hardware.mount();
    write(
        &*engine,
        vec![
            put("a", "1"),
            put("b", "1"),
            put("a", "2"),
            delete("b"),
            put("c", "3"),
        ],
    );
    assert_eq!(all(&*engine), "a=2 c=3");
    write(
        &*engine,
        vec![put("b", "2"), delete_range("a", "c"), put("aa", "4")],
    );
    assert_eq!(all(&*engine), "aa=4 c=3");
    assert_eq!(engine.get(b"a").unwrap(), None);
    assert_eq!(engine.get(b"c").unwrap().as_deref(), Some(&b"3"[..]));
}

fn scans_keep_to_their_range_and_limit(hardware: &mut dyn Hardware) {
    let engine = hardware.mount();
    write(&*engine, ["a", "b", "c", "d"].map(|key| put(key, "")).to_vec());
    let keys = |from: &[u8], to: &[u8], limit| {
        let pairs = engine.scan(from, to, limit).unwrap();
        pairs
            .into_iter()
            .flat_map(|(key, _)| key.to_vec())
            .collect::<Vec<u8>>()
    };
    assert_eq!(keys(b"b", b"d", 9), b"bc");
    assert_eq!(keys(b"a", b"z", 2), b"ab");
    assert_eq!(keys(b"aa", b"cc", 9), b"bc");
    assert_eq!(keys(b"c", b"c", 9), b"");
    assert_eq!(keys(b"d", b"a", 9), b"");
    assert_eq!(keys(b"a", b"z", 0), b"");
}

fn a_view_stays_as_it_was(hardware: &mut dyn Hardware) {
    let engine = hardware.mount();
    write(&*engine, vec![put("a", "1"), put("b", "1")]);
    let view = engine.view().unwrap();
    write(
        &*engine,
        vec![put("a", "2"), delete_range("b", "c"), put("c", "1")],
    );
    engine.flush().unwrap();
    assert_eq!(all(&*view), "a=1 b=1");
    assert_eq!(view.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(all(&*engine), "a=2 c=1");
}

fn a_crash_keeps_what_was_flushed_and_no_half_of_a_batch(hardware: &mut dyn Hardware) {
    let mut engine = hardware.mount();
    for round in 0..10 {
        write(
            &*engine,
            vec![put("a", &format!("{round}")), put("b", &format!("{round}"))],
        );
        engine.flush().unwrap();
        write(
            &*engine,
            vec![put("a", "lost"), delete("b"), put(&format!("lost{round}"), "")],
        );
        engine = hardware.crash(engine);
        assert_eq!(all(&*engine), format!("a={round} b={round}"));
    }
}

fn every_rule(mut make: impl FnMut() -> Box<dyn Hardware>) {
    changes_happen_in_order(&mut *make());
    scans_keep_to_their_range_and_limit(&mut *make());
    a_view_stays_as_it_was(&mut *make());
    a_crash_keeps_what_was_flushed_and_no_half_of_a_batch(&mut *make());
}

#[test]
fn memory_keeps_the_rules_of_an_engine() {
    every_rule(|| Box::new(MemoryEngine::new()));
}

#[test]
fn a_dead_process_cannot_write() {
    let hardware = MemoryEngine::new();
    let dead = hardware.mount();
    let alive = hardware.mount();
    assert!(dead.write(WriteBatch::default()).is_err());
    write(&*alive, vec![put("a", "1")]);
    hardware.crash(usize::MAX);
    assert!(alive.flush().is_err());
    assert_eq!(all(&*hardware.mount()), "a=1");
}

#[cfg(feature = "rocks")]
mod rocks {
    use super::*;
    use crate::engine::{EngineError, RocksEngine};

    /// Closing does not flush, so that closing is what a crash is.
    struct Directory(tempfile::TempDir);

    impl Directory {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn open(&self) -> Result<RocksEngine, EngineError> {
            RocksEngine::open(&self.0.path().join("state"))
        }

        fn files(&self, ending: &str) -> Vec<std::path::PathBuf> {
            let entries = std::fs::read_dir(self.0.path().join("state")).unwrap();
            let paths = entries.map(|entry| entry.unwrap().path());
            paths
                .filter(|path| path.to_string_lossy().ends_with(ending))
                .collect()
        }
    }

    impl Hardware for Directory {
        fn mount(&mut self) -> Arc<dyn Engine> {
            Arc::new(self.open().unwrap())
        }

        fn crash(&mut self, engine: Arc<dyn Engine>) -> Arc<dyn Engine> {
            drop(engine);
            self.mount()
        }
    }

    #[test]
    fn rocksdb_keeps_the_rules_of_an_engine() {
        every_rule(|| Box::new(Directory::new()));
    }

    #[test]
    fn a_view_outlives_its_engine() {
        let engine = Directory::new().mount();
        write(&*engine, vec![put("a", "1")]);
        let view = engine.view().unwrap();
        drop(engine);
        assert_eq!(all(&*view), "a=1");
    }

    #[test]
    fn a_flipped_bit_is_reported_as_corruption() {
        let directory = Directory::new();
        let engine = directory.open().unwrap();
        write(
            &engine,
            (0..100)
                .map(|i| put(&format!("key{i:03}"), &"value".repeat(10)))
                .collect(),
        );
        engine.flush().unwrap();
        drop(engine);
        let table = directory.files(".sst").pop().unwrap();
        let mut bytes = std::fs::read(&table).unwrap();
        bytes[20] ^= 4;
        std::fs::write(&table, bytes).unwrap();
        let read = directory
            .open()
            .and_then(|engine| super::super::EngineView::scan(&engine, b"", b"~", 1000));
        assert!(matches!(read, Err(EngineError::Corrupt(_))), "{read:?}");
    }

    #[test]
    fn a_missing_file_is_reported_as_corruption() {
        let directory = Directory::new();
        let engine = directory.open().unwrap();
        write(&engine, vec![put("a", "1")]);
        engine.flush().unwrap();
        drop(engine);
        std::fs::remove_file(directory.files(".sst").pop().unwrap()).unwrap();
        let opened = directory
            .open()
            .and_then(|engine| super::super::EngineView::get(&engine, b"a"));
        assert!(
            matches!(opened, Err(EngineError::Corrupt(_))),
            "{:?}",
            opened.err()
        );
    }

    #[test]
    fn two_processes_do_not_share_a_database() {
        let directory = Directory::new();
        let _first = directory.open().unwrap();
        assert!(matches!(directory.open().err(), Some(EngineError::Failed(_))));
    }
}

use super::*;

fn read(disk: &Arc<dyn Disk>, name: &str) -> Vec<u8> {
    let file = disk.open(name, false).unwrap();
    let mut buf = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut buf, 0).unwrap();
    buf
}

/// A disk with a durable file `d/a` of "12345678" and "abcd" written over its end, not synced.
fn half_written() -> SimDisk {
    let sim = SimDisk::new(1);
    let disk = sim.mount();
    let file = disk.open("d/a", true).unwrap();
    file.write_at(b"12345678", 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir("d").unwrap();
    file.write_at(b"abcd", 6).unwrap();
    sim
}

#[test]
fn a_crash_loses_what_was_not_synced() {
    let sim = half_written();
    sim.crash(Loss::All);
    assert_eq!(read(&sim.mount(), "d/a"), b"12345678");
}

#[test]
fn a_kill_loses_nothing() {
    let sim = half_written();
    assert_eq!(read(&sim.mount(), "d/a"), b"123456abcd");
}

#[test]
fn a_write_can_be_torn_at_any_byte() {
    for bytes in 0..=4 {
        let sim = half_written();
        sim.crash(Loss::AfterBytes(bytes));
        let expected: &[u8] = match bytes {
            0 => b"12345678",
            1 => b"123456a8",
            2 => b"123456ab",
            3 => b"123456abc",
            _ => b"123456abcd",
        };
        assert_eq!(read(&sim.mount(), "d/a"), expected);
    }
}

#[test]
fn the_same_seed_loses_the_same() {
    for seed in 0..50 {
        let (one, two) = (half_written(), half_written());
        one.crash(Loss::Random(seed));
        two.crash(Loss::Random(seed));
        assert_eq!(one.read_file("d/a"), two.read_file("d/a"));
    }
}

#[test]
fn a_name_is_durable_after_the_sync_of_its_directory() {
    let sim = SimDisk::new(1);
    let disk = sim.mount();
    disk.open("d/a", true).unwrap().sync().unwrap();
    disk.sync_dir("d").unwrap();
    disk.rename("d/a", "d/b").unwrap();
    assert_eq!(disk.list("d").unwrap(), ["b"]);
    let lost = sim.fork();
    lost.crash(Loss::All);
    assert_eq!(lost.files(), ["d/a"]);
    disk.sync_dir("d").unwrap();
    sim.crash(Loss::All);
    assert_eq!(sim.files(), ["d/b"]);
}

#[test]
fn an_earlier_life_cannot_touch_the_disk() {
    let sim = SimDisk::new(1);
    let old = sim.mount();
    let file = old.open("a", true).unwrap();
    let _new = sim.mount();
    assert!(file.write_at(b"x", 0).is_err());
    assert!(old.open("b", true).is_err());
    assert_eq!(sim.read_file("a"), Some(Vec::new()));
}

#[test]
fn a_failed_sync_gives_the_writes_up() {
    let sim = half_written();
    let disk = sim.mount();
    let file = disk.open("d/a", false).unwrap();
    sim.inject(Operation::Sync, 1, Fault::Error);
    assert!(file.sync().is_err());
    file.sync().unwrap();
    assert_eq!(read(&disk, "d/a"), b"123456abcd", "the page cache still shows it");
    sim.crash(Loss::Nothing);
    assert_eq!(read(&sim.mount(), "d/a"), b"12345678", "the disk never got it");
}

#[test]
fn what_a_failed_sync_gave_up_is_gone_when_the_cache_forgets_it_and_what_waits_for_a_sync_is_not() {
    let sim = half_written();
    let disk = sim.mount();
    let file = disk.open("d/a", false).unwrap();
    sim.forget_clean();
    assert_eq!(read(&disk, "d/a"), b"123456abcd", "no sync was tried yet");
    sim.inject(Operation::Sync, 1, Fault::Error);
    assert!(file.sync().is_err());
    file.write_at(b"x", 0).unwrap();
    sim.forget_clean();
    assert_eq!(read(&disk, "d/a"), b"x2345678");
}

#[test]
fn a_file_that_was_cut_stays_short() {
    let sim = half_written();
    sim.cut_file("d/a", 3);
    assert_eq!(sim.read_durable("d/a"), Some(b"123".to_vec()));
    sim.crash(Loss::Nothing);
    assert_eq!(sim.read_file("d/a"), Some(b"123".to_vec()));
    assert_eq!(sim.read_durable("d/b"), None);
}

#[test]
fn a_full_disk_refuses_to_grow_files() {
    let sim = SimDisk::new(1);
    sim.set_capacity(100);
    let disk = sim.mount();
    let file = disk.open("a", true).unwrap();
    file.reserve(90).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 10);
    file.write_at(&[1; 90], 0).unwrap();
    let error = file.write_at(&[1; 20], 85).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    disk.remove("a").unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 100);
}

#[test]
fn after_a_power_loss_nothing_works_until_the_next_mount() {
    let sim = SimDisk::new(1);
    let disk = sim.mount();
    sim.inject(Operation::Change, 2, Fault::PowerLoss);
    let file = disk.open("a", true).unwrap();
    assert!(file.write_at(b"x", 0).is_err());
    assert!(file.sync().is_err());
    assert!(disk.list("").is_err());
    sim.crash(Loss::All);
    assert_eq!(sim.mount().list("").unwrap(), Vec::<String>::new());
}

#[test]
fn a_lost_write_is_reported_as_done_and_never_seen() {
    let sim = half_written();
    let disk = sim.mount();
    let file = disk.open("d/a", false).unwrap();
    sim.inject(Operation::Write, 1, Fault::Lost);
    file.write_at(b"xy", 0).unwrap();
    assert_eq!(
        (sim.faults_waiting(), read(&disk, "d/a")),
        (0, b"123456abcd".to_vec())
    );
}

#[test]
fn a_misdirected_write_lands_somewhere_else() {
    let sim = SimDisk::new(1);
    let disk = sim.mount();
    let file = disk.open("f", true).unwrap();
    file.set_len(1 << 20).unwrap();
    sim.inject(Operation::Write, 1, Fault::Misdirected);
    file.write_at(b"xy", 5).unwrap();
    let bytes = read(&disk, "f");
    let place = bytes.windows(2).position(|two| two == b"xy").unwrap();
    assert_ne!(place, 5);
    assert_eq!(place % 512, 0);
}

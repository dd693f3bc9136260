//! Small files at the root of a data directory, written and read as a whole.

use std::io;

use super::{Disk, is_unreadable};

/// Writes a small file at the root as a whole, durably: after a crash it has its old content or the new one. One writer at a
/// time.
///
/// # Errors
///
/// The disk's.
pub fn replace(disk: &dyn Disk, name: &str, content: &[u8]) -> io::Result<()> {
    let new = format!("{name}.new");
    let file = disk.open(&new, true)?;
    file.set_len(0)?;
    file.write_at(content, 0)?;
    file.sync()?;
    disk.rename(&new, name)?;
    disk.sync_dir("")
}

/// Writes a small file at the root whose presence says more than what is in it: it is there although there was no room for
/// its content. After a crash it has any part of that.
///
/// # Errors
///
/// The disk's.
pub fn mark(disk: &dyn Disk, name: &str, content: &[u8]) -> io::Result<()> {
    let file = disk.open(name, true)?;
    disk.sync_dir("")?;
    file.set_len(0)?;
    file.write_at(content, 0)?;
    file.sync()
}

/// The content of a small file, at most its first `most` bytes; nothing if there is no such file.
///
/// # Errors
///
/// `InvalidData` if it is there and the medium does not give it back; else the disk's.
pub fn read_small(disk: &dyn Disk, name: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
    if !disk.exists(name)? {
        return Ok(None);
    }
    let file = disk.open(name, false)?;
    let mut content = vec![0; file.len()?.min(most) as usize];
    file.read_exact_at(&mut content, 0)
        .map_err(|error| match is_unreadable(&error) {
            true => io::Error::new(io::ErrorKind::InvalidData, format!("the disk cannot read {name}")),
            false => error,
        })?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            SimDisk,
            sim::{Fault, Loss, Operation},
        },
        *,
    };

    const FILE: &str = "FILE";
    const MOST: u64 = 1024;

    /// A disk with the file, and what an earlier crash left beside it.
    fn disk() -> SimDisk {
        let sim = SimDisk::new(1);
        let disk = sim.mount();
        replace(&*disk, FILE, b"the old content").unwrap();
        mark(&*disk, "FILE.new", &[b'x'; 500]).unwrap();
        sim
    }

    #[test]
    fn wherever_the_machine_stops_a_file_that_is_replaced_is_the_old_one_or_the_new_one() {
        let (mut old, mut new) = (0, 0);
        for fault in [Fault::PowerLoss, Fault::Error, Fault::Full] {
            for nth in 1.. {
                let sim = disk();
                sim.inject(Operation::Change, nth, fault);
                let done = replace(&*sim.mount(), FILE, b"the new").is_ok();
                sim.crash(Loss::Random(nth));
                let found = read_small(&*sim.mount(), FILE, MOST)
                    .unwrap()
                    .expect("it is there");
                match &found[..] {
                    b"the old content" if !done => old += 1,
                    b"the new" => new += 1,
                    other => panic!("{other:?} after {fault:?} at change {nth}"),
                }
                if sim.faults_waiting() > 0 {
                    break;
                }
            }
        }
        assert!(old >= 6 && new >= 3, "{old} {new}");
    }

    #[test]
    fn a_mark_is_there_although_there_was_no_room_for_what_it_says() {
        let sim = SimDisk::new(1);
        let disk = sim.mount();
        assert_eq!(read_small(&*disk, FILE, MOST).unwrap(), None);
        sim.set_capacity(0);
        mark(&*disk, FILE, b"why").unwrap_err();
        sim.crash(Loss::All);
        assert!(read_small(&*sim.mount(), FILE, MOST).unwrap().is_some());
    }

    #[test]
    fn what_the_medium_does_not_give_back_is_damage_and_any_other_failure_is_not() {
        let sim = disk();
        let disk = sim.mount();
        assert_eq!(read_small(&*disk, FILE, 3).unwrap().as_deref(), Some(&b"the"[..]));
        sim.break_sector(FILE, 2);
        let damage = read_small(&*disk, FILE, MOST).unwrap_err();
        assert_eq!(damage.kind(), io::ErrorKind::InvalidData);
        sim.crash(Loss::All);
        let gone = read_small(&*disk, FILE, MOST).unwrap_err();
        assert_ne!(gone.kind(), io::ErrorKind::InvalidData, "{gone}");
    }
}

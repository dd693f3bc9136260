//! What a run made and must not leave behind: processes, mounts, network namespaces, directories. Whoever makes one of
//! these says so here first; it is all undone at the end of the run, after a signal, and when this program panics.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::shell;

/// Clones are the same list.
#[derive(Clone, Default)]
pub(super) struct Cleanup(Arc<Mutex<Undo>>);

#[derive(Default)]
struct Undo {
    /// Undone already: nothing more may be made.
    over: bool,
    processes: BTreeSet<u32>,
    mounts: Vec<PathBuf>,
    links: Vec<String>,
    namespaces: Vec<String>,
    directories: Vec<PathBuf>,
}

impl Cleanup {
    /// Starts a process.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // Started and noted under one lock, so that none starts behind the back of `run`.
        let mut undo = self.open()?;
        let child = command.spawn()?;
        undo.processes.insert(child.id());
        Ok(child)
    }

    /// The process's end, once it has ended. Its number is forgotten in the same moment: it may become somebody else's.
    pub(super) fn reap(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        let mut undo = self.lock();
        let status = child.try_wait()?;
        if status.is_some() {
            undo.processes.remove(&child.id());
        }
        Ok(status)
    }

    pub(super) fn will_mount(&self, on: PathBuf) -> io::Result<()> {
        self.open()?.mounts.push(on);
        Ok(())
    }

    pub(super) fn will_make_link(&self, name: &str) -> io::Result<()> {
        self.open()?.links.push(name.to_owned());
        Ok(())
    }

    pub(super) fn will_make_namespace(&self, name: &str) -> io::Result<()> {
        self.open()?.namespaces.push(name.to_owned());
        Ok(())
    }

    pub(super) fn will_make_directory(&self, path: PathBuf) -> io::Result<()> {
        self.open()?.directories.push(path);
        Ok(())
    }

    /// Undoes everything; a second time nothing is left to do. What cannot be undone is said on stderr.
    pub(super) fn run(&self) {
        let mut undo = self.lock();
        undo.over = true;
        let processes: Vec<Pid> = undo
            .processes
            .iter()
            .filter_map(|pid| Pid::from_raw(*pid as i32))
            .collect();
        undo.processes.clear();
        for pid in &processes {
            // An error means that it is gone.
            let _ = kill_process(*pid, Signal::KILL);
        }
        for pid in processes {
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
        // It was said before it was done, and may not have been done.
        for mount in undo.mounts.drain(..).filter(|mount| is_mounted(mount)) {
            complain(shell::run("umount", &["-l", &mount.to_string_lossy()]));
        }
        for link in undo
            .links
            .drain(..)
            .filter(|link| Path::new("/sys/class/net").join(link).exists())
        {
            complain(shell::run("ip", &["link", "del", &link]));
        }
        for namespace in undo
            .namespaces
            .drain(..)
            .filter(|name| Path::new("/run/netns").join(name).exists())
        {
            complain(shell::run("ip", &["netns", "del", &namespace]));
        }
        for directory in undo.directories.drain(..).filter(|path| path.exists()) {
            complain(std::fs::remove_dir_all(&directory));
        }
    }

    fn open(&self) -> io::Result<MutexGuard<'_, Undo>> {
        let undo = self.lock();
        if undo.over {
            return Err(io::Error::other("the run is over"));
        }
        Ok(undo)
    }

    fn lock(&self) -> MutexGuard<'_, Undo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

fn complain(done: io::Result<()>) {
    if let Err(error) = done {
        eprintln!("chaos: cleaning up: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_and_directories_are_gone_afterwards_and_nothing_starts_any_more() {
        let cleanup = Cleanup::default();
        let directory = std::env::temp_dir().join(format!("chaos-cleanup-{}", std::process::id()));
        cleanup
            .will_make_directory(directory.clone())
            .expect("it is open");
        std::fs::create_dir_all(&directory).expect("it can be made");
        let mut child = cleanup
            .spawn(Command::new("sleep").arg("600"))
            .expect("sleep exists");
        assert!(cleanup.reap(&mut child).expect("it is ours").is_none());
        cleanup.run();
        assert!(!directory.exists());
        assert!(!std::path::Path::new(&format!("/proc/{}/exe", child.id())).exists());
        assert!(cleanup.spawn(&mut Command::new("true")).is_err());
        cleanup.run();
    }
}

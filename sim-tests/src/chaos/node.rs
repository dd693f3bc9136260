//! One node: a `flotilla serve` process that can be killed, stopped and started again, with its directory and its log.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::{
    cleanup::Cleanup,
    network::{Doors, Network},
};
use std::os::unix::process::CommandExt;

/// An orderly end takes at most so long.
pub(super) const STOP: Duration = Duration::from_secs(30);
/// A killed process is gone within this: the kernel may have to finish its writes.
const GONE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// What a log keeps, MiB. Far more than is sent while a message may wait for its consumers: see `workload/pace.rs`.
pub(super) const RETENTION_MIB: u64 = 512;

/// What all nodes are started with.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) program: PathBuf,
    pub(super) network: Arc<dyn Network>,
    pub(super) doors: Arc<Doors>,
    pub(super) cleanup: Cleanup,
    pub(super) nodes: u32,
}

/// A node, running or not.
pub(super) struct Node {
    pub(super) id: u32,
    /// Its disk, with its own data directory and those that somebody mistakes for it.
    pub(super) directory: PathBuf,
    /// What it says.
    pub(super) log: PathBuf,
    common: Common,
    child: Mutex<Option<Child>>,
    /// It was started with a directory that is not its own, and may refuse to run.
    may_end: AtomicBool,
}

impl Node {
    pub(super) fn new(id: u32, directory: PathBuf, log: PathBuf, common: Common) -> Node {
        Node {
            id,
            directory,
            log,
            common,
            child: Mutex::new(None),
            may_end: AtomicBool::new(false),
        }
    }

    /// Its own data directory.
    pub(super) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What its log takes on its disk, MiB.
    pub(super) fn log_mib(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for file in fs::read_dir(self.data().join("log"))? {
            // A segment that is given back meanwhile takes nothing.
            bytes += file?.metadata().map_or(0, |metadata| metadata.len());
        }
        Ok(bytes >> 20)
    }

    /// The data directory of the node of another cluster that once had its address.
    pub(super) fn foreign(&self) -> PathBuf {
        self.directory.join("foreign")
    }

    /// Where administration is served.
    pub(super) fn http(&self) -> String {
        self.common.network.place(self.id).http
    }

    /// Where clients find it.
    pub(super) fn clients(&self) -> String {
        self.common.doors.address(self.id)
    }

    /// Starts the process, if there is none.
    pub(super) fn start(&self) -> io::Result<()> {
        self.start_with(&self.data(), &self.log, false)
    }

    /// Starts it with a directory that is, or may be, the wrong one. It may end by itself, and what it says goes elsewhere.
    pub(super) fn start_wrongly(&self, data: &Path) -> io::Result<()> {
        self.start_with(data, &self.log.with_extension("wrong.log"), true)
    }

    fn start_with(&self, data: &Path, log: &Path, may_end: bool) -> io::Result<()> {
        let mut child = self.lock();
        if child.is_some() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let started = self.common.cleanup.spawn(&mut self.command(data, log)?)?;
        self.may_end.store(may_end, Ordering::SeqCst);
        self.common.network.started(self.id, started.id());
        *child = Some(started);
        Ok(())
    }

    fn command(&self, data: &Path, log: File) -> io::Result<Command> {
        let network = &self.common.network;
        let place = network.place(self.id);
        let cluster: Vec<String> = (1..=self.common.nodes)
            .map(|node| format!("{node}={}", network.place(node).peers_listed))
            .collect();
        let mut command = network.command(self.id, &self.common.program);
        command
            .args(["serve", "--node-id", &self.id.to_string()])
            .arg("--data-dir")
            .arg(data)
            .args(["--client-addr", &place.clients, "--http-addr", &place.http])
            .args(["--advertise-client-addr", &self.clients()])
            .args([
                "--peer-addr",
                &place.peers,
                "--initial-cluster",
                &cluster.join(","),
            ])
            // Small, so that a run begins new segments, and a full disk is felt soon.
            .args(["--log-segment-size", "16MiB"])
            .args(["--retention-size", &format!("{RETENTION_MIB}MiB")])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for this program, which ends its nodes itself.
            .process_group(0);
        Ok(command)
    }

    /// kill -9; returns when the process is gone.
    pub(super) async fn kill(&self) -> io::Result<()> {
        match self.take() {
            Some(child) => self.end(child, Signal::KILL, GONE).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// An orderly end; the exit status, or `None` if it did not come in time (then the process is killed).
    pub(super) async fn stop(&self) -> io::Result<Option<ExitStatus>> {
        let Some(mut child) = self.take() else {
            return Ok(None);
        };
        signal(&child, Signal::TERM)?;
        let status = self.gone(&mut child, STOP).await?;
        if status.is_none() {
            self.end(child, Signal::KILL, GONE).await?;
        }
        Ok(status)
    }

    /// SIGSTOP: it stands still until [`Node::resume`].
    pub(super) fn pause(&self) -> io::Result<()> {
        self.lock()
            .as_ref()
            .map_or(Ok(()), |child| signal(child, Signal::STOP))
    }

    pub(super) fn resume(&self) -> io::Result<()> {
        self.lock()
            .as_ref()
            .map_or(Ok(()), |child| signal(child, Signal::CONT))
    }

    /// Whether a process runs, as far as anybody has looked.
    pub(super) fn runs(&self) -> bool {
        self.lock().is_some()
    }

    /// Whether it may end by itself.
    pub(super) fn may_end(&self) -> bool {
        self.may_end.load(Ordering::SeqCst)
    }

    /// How the process ended by itself, if it did; from then on it is not running.
    pub(super) fn ended(&self) -> io::Result<Option<ExitStatus>> {
        let mut child = self.lock();
        let Some(running) = child.as_mut() else {
            return Ok(None);
        };
        let status = self.common.cleanup.reap(running)?;
        if status.is_some() {
            *child = None;
        }
        Ok(status)
    }

    async fn end(&self, mut child: Child, how: Signal, limit: Duration) -> io::Result<ExitStatus> {
        signal(&child, how)?;
        let status = self.gone(&mut child, limit).await?;
        status.ok_or_else(|| io::Error::other(format!("node {} does not end within {limit:?}", self.id)))
    }

    async fn gone(&self, child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            let status = self.common.cleanup.reap(child)?;
            if status.is_some() || Instant::now() >= end {
                return Ok(status);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn take(&self) -> Option<Child> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signal(child: &Child, signal: Signal) -> io::Result<()> {
    Ok(kill_process(Pid::from_child(child), signal)?)
}

//! One machine of the world: hardware that lasts, and a broker process that can be killed.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use broker::{node::Node, service::Service};
use madsim::{
    rand::{Rng, thread_rng},
    runtime::{Handle, NodeHandle},
    task::NodeId,
};
use raft_store::{
    blocking::{Work, sim::set_machine},
    disk::sim::SimDisk,
    engine::memory::MemoryEngine,
};

use crate::{
    clock::WallClock,
    coverage::Coverage,
    harm::{Harm, Harms},
    history::History,
    machine::SlowMachine,
    oracle::votes::Votes,
    peers::Disorder,
    plan::Plan,
    trace::Trace,
};

mod hardware;
mod ports;
mod power;
mod process;

pub use hardware::Hardware;
use power::Supply;
use process::Process;
pub use process::{Guise, HAND_OVER_TIMEOUT};

const PEER_PORT: u16 = 8083;
const CLIENT_PORT: u16 = 8081;

/// Where a node's peer port is.
#[must_use]
pub fn peer_addr(node: u32) -> SocketAddr {
    (ip(node), PEER_PORT).into()
}

/// Where a node's client port is.
#[must_use]
pub fn client_addr(node: u32) -> SocketAddr {
    (ip(node), CLIENT_PORT).into()
}

fn ip(node: u32) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(node).expect("a small world")).into()
}

/// One machine.
pub struct Host {
    /// The number of its node.
    pub id: u32,
    machine: NodeHandle,
    /// How long its disk takes.
    slow: Arc<SlowMachine>,
    process: Process,
    /// Started, and not killed since.
    up: AtomicBool,
}

impl Host {
    /// Builds the machine and starts its broker.
    #[must_use]
    pub fn start(
        id: u32,
        plan: &Plan,
        (history, coverage, harms): (&History, &Coverage, &Harms),
        disorder: &Disorder,
        trace: &Trace,
    ) -> Host {
        let process = Process {
            id,
            supply: Supply::default(),
            coverage: coverage.clone(),
            plan: plan.clone(),
            hardware: Arc::new(Mutex::new(Hardware::new(plan))),
            running: Arc::default(),
            wall: WallClock::ahead(thread_rng().gen_range(-plan.skew_ms..=plan.skew_ms)),
            guise: Arc::default(),
            told_to_leave: Arc::default(),
            visitor: Arc::default(),
            last_words: Arc::default(),
            may_stop: Arc::default(),
            damaged: Arc::default(),
            chart: harms.of(id),
            condemned: Arc::default(),
            exited: Arc::default(),
            votes: Votes::default(),
            history: history.clone(),
            disorder: disorder.clone(),
            trace: trace.clone(),
        };
        let life = process.clone();
        let machine = Handle::current()
            .create_node()
            .name(format!("node-{id}"))
            .ip(ip(id))
            .init(move || life.clone().run())
            .build();
        let slow = process.slow_machine(machine.id());
        set_machine(machine.id(), slow.clone());
        Host {
            id,
            machine,
            slow,
            process,
            up: AtomicBool::new(true),
        }
    }

    /// The running node, once it has started.
    #[must_use]
    pub fn node(&self) -> Option<Node> {
        self.service().map(|service| service.node().clone())
    }

    /// Its service, for administration.
    #[must_use]
    pub fn service(&self) -> Option<Arc<Service>> {
        lock(&self.process.running).clone()
    }

    /// The machine, for faults of its network.
    #[must_use]
    pub fn machine(&self) -> NodeId {
        self.machine.id()
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> SimDisk {
        lock(&self.process.hardware).disk.clone()
    }

    /// Tells the process to stop in an orderly way, as a signal does to `flotilla serve`: it hands over what it leads, writes its
    /// state out and ends, [`Self::exited`]. To be killed after that, as whatever still runs of it.
    pub fn tell_to_leave(&self) {
        self.trace("leave");
        lock(&self.process.told_to_leave).notify_one();
    }

    /// A copy of everything that is stored, as a power loss in this moment would leave it.
    #[must_use]
    pub fn backup(&self) -> Hardware {
        self.trace("backup");
        let copy = lock(&self.process.hardware).fork();
        copy.crash();
        // Whoever fills the disk now makes room on that one only.
        copy.disk.set_capacity(u64::MAX);
        copy
    }

    /// What the machine stores is now this; returns what it was. Only while nothing runs.
    pub fn exchange(&self, hardware: Hardware) -> Hardware {
        self.trace("exchange");
        std::mem::replace(&mut *lock(&self.process.hardware), hardware)
    }

    /// From its next start on the machine is one of another cluster, which has only this node, or it is itself again. Then
    /// clients do not find it, and [`Self::node`] is nobody.
    pub fn disguise(&self, guise: Guise) {
        *lock(&self.process.guise) = guise;
        // The visitor has a disk of its own.
        match guise {
            Guise::Own if self.damaged() => self.process.chart.begins(Harm::Stored),
            _ => self.process.chart.ends(Harm::Stored),
        }
    }

    /// What runs here in the guise of another cluster's node.
    #[must_use]
    pub fn visitor(&self) -> Option<Node> {
        lock(&self.process.visitor).clone()
    }

    /// What the process said when it ended by itself the last time.
    #[must_use]
    pub fn last_words(&self) -> String {
        lock(&self.process.last_words).clone()
    }

    /// How far the state engine has a shard's state durably: the index of the last entry that is applied in it.
    #[must_use]
    pub fn durably_applied(&self, shard: u32) -> Option<u64> {
        let engine = lock(&self.process.hardware).engine.clone();
        raft_store::applied_in(shard, |key| engine.durable(key))
    }

    /// Kills the process and cuts the power: what was not synced is lost, torn or kept, as chance has it.
    pub fn crash(&self) {
        self.trace("crash");
        self.end();
        lock(&self.process.hardware).crash();
    }

    /// Kills the process; the machine goes on, and what was written stays.
    pub fn kill(&self) {
        self.trace("kill");
        self.end();
        // Flushed or not, the state engine's own log is off: what it had in memory is gone.
        let hardware = lock(&self.process.hardware);
        hardware.engine.crash(0);
    }

    fn end(&self) {
        self.up.store(false, Ordering::SeqCst);
        *lock(&self.process.running) = None;
        *lock(&self.process.visitor) = None;
        self.process.supply.back();
        self.process.chart.new_life();
        Handle::current().kill(self.machine.id());
        for what in self.slow.interrupted() {
            self.process.coverage.count(&what);
        }
    }

    /// From now on the power may fail in the middle of work, or no longer.
    pub fn power_may_fail(&self, may: bool) {
        self.process.supply.may_fail(may);
    }

    /// The power is to fail during a piece of work that the process does; see [`SlowMachine::doom`].
    pub fn doom(&self, piece: Option<(Work, u64)>) {
        self.slow.doom(piece);
    }

    /// How many pieces of this work the machine has done or begun.
    #[must_use]
    pub fn work_count(&self, work: Work) -> u64 {
        self.slow.count(work)
    }

    /// Whether the power has failed in the middle of work, and nobody has started the process since.
    #[must_use]
    pub fn lost_power(&self) -> bool {
        self.process.supply.has_failed()
    }

    /// Takes away everything that is stored. Only while nothing runs.
    pub fn wipe(&self) {
        self.trace("wipe");
        self.undamaged();
        *lock(&self.process.hardware) = Hardware::new(&self.process.plan);
    }

    /// The same, as `flotilla serve` does it with a damaged directory: the empty one remembers that there was data.
    pub fn set_aside(&self) {
        self.wipe();
        self.disk().write_file("HAD_DATA", b"");
    }

    /// From now on the state engine fails at every write, or works again. The log's disk has nothing to do with it.
    pub fn engine_fails(&self, fails: bool) {
        self.trace("engine fails");
        lock(&self.process.hardware).engine.fail(fails);
    }

    /// The files of the state engine are gone, or those of an earlier copy. Only while nothing runs.
    pub fn lose_state(&self, earlier: Option<Hardware>) {
        self.trace("lose state");
        lock(&self.process.hardware).engine = earlier.map_or_else(MemoryEngine::new, |copy| copy.engine);
    }

    /// Starts the process again on what its disk kept. One that somebody else has started since it died is killed first.
    pub fn restart(&self) {
        if self.up.swap(true, Ordering::SeqCst) {
            self.kill();
            self.up.store(true, Ordering::SeqCst);
        }
        self.trace("restart");
        self.process.supply.back();
        self.process.may_stop.store(false, Ordering::SeqCst);
        self.process.condemned.store(false, Ordering::SeqCst);
        self.process.exited.store(false, Ordering::SeqCst);
        *lock(&self.process.running) = None;
        *lock(&self.process.visitor) = None;
        *lock(&self.process.told_to_leave) = Arc::default();
        Handle::current().restart(self.machine.id());
    }

    /// Stops the process until [`Self::resume`].
    pub fn pause(&self) {
        self.trace("pause");
        Handle::current().pause(self.machine.id());
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.trace("resume");
        Handle::current().resume(self.machine.id());
    }

    /// From now until its next start the node may stop by itself: its disk is about to fail.
    pub fn may_stop(&self) {
        self.process.may_stop.store(true, Ordering::SeqCst);
    }

    /// What is stored here is no longer what was written. The node may find out at any time until everything is taken
    /// away from it.
    pub fn damage(&self) {
        self.trace("damage");
        self.process.damaged.store(true, Ordering::SeqCst);
        self.process.chart.begins(Harm::Stored);
    }

    /// What is stored here is whole again.
    pub fn undamaged(&self) {
        self.process.damaged.store(false, Ordering::SeqCst);
        self.process.chart.ends(Harm::Stored);
    }

    /// Whether the stored data is damaged and the node has not found out.
    #[must_use]
    pub fn damaged(&self) -> bool {
        self.process.damaged.load(Ordering::SeqCst)
    }

    /// Whether the process has ended because what it has stored is damaged.
    #[must_use]
    pub fn condemned(&self) -> bool {
        self.process.condemned.load(Ordering::SeqCst)
    }

    /// Its wall clock.
    #[must_use]
    pub fn wall_clock(&self) -> &WallClock {
        &self.process.wall
    }

    /// Whether the process has ended by itself.
    #[must_use]
    pub fn exited(&self) -> bool {
        self.process.exited.load(Ordering::SeqCst)
    }

    fn trace(&self, what: &str) {
        self.process.trace.event(what, &[self.id.into()], &[]);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Faults: which, when, and on whom. Each begins, lasts and is healed by itself, so that when the last one is over nothing
//! is broken but what the cluster has to repair.
//!
//! | file | what |
//! |---|---|
//! | `process` | nodes that are killed, restarted and stopped |
//! | `network` | links that are cut, lossy or slow, and connections of clients that are cut |
//! | `disk` | a disk that is full, and disks that are small |
//! | `directory` | directories that are lost, old, damaged, of another node, or of another cluster |
//! | `rebuild` | a node that is rebuilt under load, with a second fault meanwhile |

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::ValueEnum;
use tokio::time::sleep;

use super::{
    book::Book,
    gaps::Happened,
    network::{Doors, Network},
    node::Node,
    random::Random,
};

mod directory;
mod disk;
mod network;
mod process;
mod rebuild;

/// From the end of a fault to the beginning of the next, milliseconds.
const QUIET_MS: Range<u64> = 1_500..3_000;
/// A fault begins only if so much time is left for it.
const LEAST: Duration = Duration::from_secs(3);
/// Every so often there are two faults at once, one of them of the network.
const PAIR_EVERY: u32 = 3;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Fault {
    /// kill -9 of a node, preferably of the one that leads most
    Kill,
    /// kill -9 of all nodes at once
    KillAll,
    /// An orderly end, and a new start
    Restart,
    /// The same of all nodes at once
    RestartAll,
    /// SIGSTOP, and SIGCONT
    Pause,
    /// One node and everybody else, clients included, do not hear each other
    Isolate,
    /// One node and the other nodes do not hear each other; clients reach all
    Partition,
    /// One node does not hear another, which hears it
    OneWay,
    /// Packets get lost everywhere
    Loss,
    /// All links are slow
    Latency,
    /// One link is slow and narrow, between two nodes or between a node and the clients
    SlowLink,
    /// Connections of clients are cut, in the middle of requests and answers
    CutClients,
    /// A node's disk has no room
    FullDisk,
    /// The disks of all nodes have little room, and producers send as much as they can
    SmallDisks,
    /// A node loses its directory while the disks of the others have little room
    TightDisks,
    /// kill -9 of a node, whose directory is empty when it comes back
    LostDirectory,
    /// A node comes back with the directory that it had a while ago
    OldDirectory,
    /// A node is started with the directory that a node of another cluster had at the same address
    ForeignDirectory,
    /// A node is started with the directory of another node of the cluster
    SwappedDirectory,
    /// A node loses its directory under load, and while it is rebuilt it or another one is killed
    Rebuild,
    /// Bits flip in what a node has stored, and then another node loses its directory
    FlippedBits,
}

impl Fault {
    pub(super) const ALL: [Fault; 21] = [
        Fault::Kill,
        Fault::KillAll,
        Fault::Restart,
        Fault::RestartAll,
        Fault::Pause,
        Fault::Isolate,
        Fault::Partition,
        Fault::OneWay,
        Fault::Loss,
        Fault::Latency,
        Fault::SlowLink,
        Fault::CutClients,
        Fault::FullDisk,
        Fault::SmallDisks,
        Fault::TightDisks,
        Fault::LostDirectory,
        Fault::OldDirectory,
        Fault::ForeignDirectory,
        Fault::SwappedDirectory,
        Fault::Rebuild,
        Fault::FlippedBits,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill -9",
            Fault::KillAll => "kill -9 of all",
            Fault::Restart => "restart",
            Fault::RestartAll => "restart of all",
            Fault::Pause => "pause",
            Fault::Isolate => "isolate",
            Fault::Partition => "partition",
            Fault::OneWay => "one way",
            Fault::Loss => "loss",
            Fault::Latency => "latency",
            Fault::SlowLink => "slow link",
            Fault::CutClients => "cut clients",
            Fault::FullDisk => "full disk",
            Fault::SmallDisks => "small disks",
            Fault::TightDisks => "tight disks",
            Fault::LostDirectory => "lost directory",
            Fault::OldDirectory => "old directory",
            Fault::ForeignDirectory => "foreign directory",
            Fault::SwappedDirectory => "swapped directory",
            Fault::Rebuild => "rebuild",
            Fault::FlippedBits => "flipped bits",
        }
    }

    fn is_of_the_network(self) -> bool {
        use Fault::{CutClients, Isolate, Latency, Loss, OneWay, Partition, SlowLink};
        matches!(
            self,
            Isolate | Partition | OneWay | Loss | Latency | SlowLink | CutClients
        )
    }

    /// Takes what a quorum can spare: nothing else goes together with it.
    fn is_of_a_disk(self) -> bool {
        use Fault::{
            FlippedBits, ForeignDirectory, FullDisk, LostDirectory, OldDirectory, Rebuild, SmallDisks,
            SwappedDirectory, TightDisks,
        };
        matches!(
            self,
            FullDisk
                | SmallDisks
                | TightDisks
                | LostDirectory
                | OldDirectory
                | ForeignDirectory
                | SwappedDirectory
                | Rebuild
                | FlippedBits
        )
    }

    /// Fills file systems that are made for it.
    pub(super) fn needs_mounts(self) -> bool {
        matches!(self, Fault::FullDisk | Fault::SmallDisks | Fault::TightDisks)
    }

    /// Goes together with a fault of the network.
    fn is_of_a_process(self) -> bool {
        !self.is_of_the_network() && !self.is_of_a_disk()
    }
}

/// What faults have to do with.
#[derive(Clone)]
pub(super) struct Scene {
    pub(super) nodes: Arc<Vec<Node>>,
    pub(super) network: Arc<dyn Network>,
    pub(super) doors: Arc<Doors>,
    pub(super) book: Book,
    /// Producers send as much as they can: so that a full disk is felt.
    pub(super) heavy: Arc<AtomicBool>,
    /// When there are no faults any more.
    pub(super) end: Duration,
}

/// Faults one after the other, from a bag that is filled again when it is empty; what happened, in order.
pub(super) async fn run(scene: &Scene, possible: &[Fault], random: &mut Random) -> Vec<Happened> {
    let mut happened = Vec::new();
    let mut bag: Vec<Fault> = Vec::new();
    for turn in 1_u32.. {
        sleep(random.millis(QUIET_MS)).await;
        if scene.left() < LEAST {
            break;
        }
        if bag.is_empty() {
            bag = possible.to_vec();
            random.shuffle(&mut bag);
        }
        let first = bag.pop().expect("it was filled");
        let second = turn
            .is_multiple_of(PAIR_EVERY)
            .then(|| partner(first, &mut bag))
            .flatten();
        let faults: Vec<Fault> = [first].into_iter().chain(second).collect();
        let from = scene.book.now();
        let names: Vec<&str> = faults.iter().map(|fault| fault.name()).collect();
        commit_all(scene, &faults, random).await;
        scene.book.keep(&format!("over: {}", names.join(", ")));
        faults
            .iter()
            .for_each(|fault| scene.book.count(&format!("fault {}", fault.name())));
        happened.push(Happened {
            name: if second.is_some() {
                "two at once".into()
            } else {
                names[0].into()
            },
            from,
            until: scene.book.now(),
        });
    }
    happened
}

/// Something from the bag that can happen at the same time.
fn partner(first: Fault, bag: &mut Vec<Fault>) -> Option<Fault> {
    let fits = |other: &Fault| {
        first.is_of_the_network() && other.is_of_a_process()
            || first.is_of_a_process() && other.is_of_the_network()
    };
    let at = bag.iter().position(fits)?;
    Some(bag.swap_remove(at))
}

async fn commit_all(scene: &Scene, faults: &[Fault], random: &mut Random) {
    let all: Vec<_> = faults.iter().map(|fault| (*fault, random.fork())).collect();
    let all = all.into_iter().map(|(fault, random)| async move {
        if let Err(error) = commit(scene, fault, random).await {
            scene
                .book
                .broken(format!("run: {} could not be carried out: {error}", fault.name()));
        }
    });
    futures::future::join_all(all).await;
}

/// Carries out a fault, and heals it.
async fn commit(scene: &Scene, fault: Fault, random: Random) -> io::Result<()> {
    match fault {
        Fault::Kill => process::kill(scene, random).await,
        Fault::KillAll => process::kill_all(scene, random).await,
        Fault::Restart => process::restart(scene, random).await,
        Fault::RestartAll => process::restart_all(scene, random).await,
        Fault::Pause => process::pause(scene, random).await,
        Fault::Isolate => network::isolate(scene, random).await,
        Fault::Partition => network::partition(scene, random).await,
        Fault::OneWay => network::one_way(scene, random).await,
        Fault::Loss => network::loss(scene, random).await,
        Fault::Latency => network::latency(scene, random).await,
        Fault::SlowLink => network::slow_link(scene, random).await,
        Fault::CutClients => network::cut_clients(scene, random).await,
        Fault::FullDisk => disk::full(scene, random).await,
        Fault::SmallDisks => disk::small(scene, random).await,
        Fault::TightDisks => directory::tight(scene, random).await,
        Fault::LostDirectory => directory::lost(scene, random).await,
        Fault::OldDirectory => directory::old(scene, random).await,
        Fault::ForeignDirectory => directory::foreign(scene, random).await,
        Fault::SwappedDirectory => directory::swapped(scene, random).await,
        Fault::Rebuild => rebuild::under_load(scene, random).await,
        Fault::FlippedBits => directory::flipped(scene, random).await,
    }
}

impl Scene {
    fn left(&self) -> Duration {
        self.end.saturating_sub(self.book.now())
    }

    fn anybody(&self, random: &mut Random) -> &Node {
        &self.nodes[random.within(0..self.nodes.len() as u64) as usize]
    }

    /// Waits for a while that is drawn, but not beyond the end of all faults.
    async fn last(&self, ms: Range<u64>, random: &mut Random) {
        sleep(random.millis(ms).min(self.left())).await;
    }

    fn heavy(&self, heavy: bool) {
        self.heavy.store(heavy, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_faults_at_once_never_concern_the_same_thing() {
        for first in Fault::ALL {
            let mut bag = Fault::ALL.to_vec();
            let Some(second) = partner(first, &mut bag) else {
                assert!(first.is_of_a_disk());
                continue;
            };
            assert_ne!(first.is_of_the_network(), second.is_of_the_network());
            assert_eq!(bag.len(), Fault::ALL.len() - 1);
        }
    }
}

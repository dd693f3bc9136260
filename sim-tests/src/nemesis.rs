//! Faults, drawn by weight and healed again. Every fault of `plan::Fault` has its room here; each begins, lasts, and ends
//! by itself, so that when the nemesis is over the world is whole, but for what the cluster has to repair.

use std::{sync::Arc, time::Duration};

use madsim::{
    rand::{Rng, seq::SliceRandom, thread_rng},
    time::TimeHandle,
};
use tokio::time::sleep;
use tracing::debug;

use crate::{
    atlas::{Atlas, Hold},
    coverage::Coverage,
    history::History,
    host::Host,
    peers::Disorder,
    plan::{Fault, Plan},
};

mod clock;
mod deposed;
mod disk;
mod errors;
mod files;
mod leaving;
mod moved;
mod network;
mod older;
mod outage;
mod process;
mod rebuilding;
mod release;
mod tail;
mod visitor;
mod vote;

pub(crate) use network::usual as usual_network;
pub(crate) use rebuilding::install_piece;

/// What faults have to do with.
#[derive(Clone)]
pub struct Scene {
    /// All machines of the cluster.
    pub hosts: Arc<Vec<Host>>,
    /// The world's plan.
    pub plan: Plan,
    /// What the network does to requests.
    pub disorder: Disorder,
    /// What may be broken.
    pub atlas: Atlas,
    /// Counters.
    pub coverage: Coverage,
    /// Where a fault says what a node should have done about it.
    pub history: History,
}

/// Lets faults come for as long as the plan says; returns when all of them are healed.
pub async fn run(scene: Scene) {
    let all: Vec<_> = (0..scene.plan.at_once)
        .map(|_| tokio::spawn(one(scene.clone())))
        .collect();
    for nemesis in all {
        nemesis.await.expect("a nemesis does not panic");
    }
    network::heal();
}

async fn one(scene: Scene) {
    let faults: Vec<(Fault, u32)> = scene
        .plan
        .faults
        .iter()
        .map(|(fault, weight)| (*fault, *weight))
        .collect();
    let end = scene.plan.faults_for;
    loop {
        let pause = thread_rng().gen_range(0..=2 * scene.plan.fault_every_ms);
        sleep(Duration::from_millis(pause)).await;
        let now = TimeHandle::current().elapsed();
        if faults.is_empty() || now >= end {
            return;
        }
        let (fault, _) = faults
            .choose_weighted(&mut thread_rng(), |(_, weight)| *weight)
            .expect("there are some");
        debug!(at = ?now, ?fault, "fault");
        if commit(&scene, *fault).await {
            scene.coverage.count(fault.name());
        }
    }
}

/// Carries out a fault and heals it; false if it could not be just now.
async fn commit(scene: &Scene, fault: Fault) -> bool {
    match fault {
        Fault::KillLeader => process::kill_leader(scene).await,
        Fault::KillSome => process::kill_some(scene).await,
        Fault::KillAll => process::kill_all(scene).await,
        Fault::CrashVoters => vote::crash_voters(scene).await,
        Fault::Pause => process::pause(scene).await,
        Fault::Isolate => network::isolate(scene).await,
        Fault::Split => network::split(scene).await,
        Fault::OneWay => network::one_way(scene).await,
        Fault::Loss => network::loss(scene).await,
        Fault::Latency => network::latency(scene).await,
        Fault::SlowDisk => disk::slow(scene).await,
        Fault::FullDisk => disk::full(scene).await,
        Fault::DiskError => disk::error(scene).await,
        Fault::Wipe => disk::wipe(scene).await,
        Fault::BitFlip => disk::flip(scene).await,
        Fault::LyingDisk => disk::lie(scene).await,
        Fault::ClockJump => clock::jump(scene),
        Fault::Disorder => network::disorder(scene).await,
        Fault::ErrorWithPower => errors::keep_power(scene).await,
        Fault::ReadError => errors::read(scene).await,
        Fault::FileDamage => files::harm(scene).await,
        Fault::OldDirectory => older::put_back(scene).await,
        Fault::SecondLoss => rebuilding::lose_again(scene).await,
        Fault::SenderDies => rebuilding::sender_dies(scene).await,
        Fault::FullSender => rebuilding::full_sender(scene).await,
        Fault::Visitor => visitor::visit(scene).await,
        Fault::LongOutage => outage::long(scene).await,
        Fault::OrderlyStop => leaving::leave(scene).await,
        Fault::OldRelease => release::take_back(scene).await,
        Fault::EngineFails => errors::engine(scene).await,
        Fault::StateLoss => older::lose_state(scene).await,
        Fault::SwappedDirectories => visitor::swap(scene).await,
        Fault::OldLeader => tail::leave(scene).await,
        Fault::MovedLeader => moved::to_and_fro(scene).await,
    }
}

/// Looks again and again, for so long at most, whether something has come about; whether it has.
async fn await_true(every: Duration, patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..patience.as_millis() / every.as_millis() {
        if condition() {
            return true;
        }
        sleep(every).await;
    }
    false
}

impl Scene {
    /// Anybody whose power is on, held: what is about to fail then fails in this life of it.
    fn anybody_on(&self) -> Option<(&Host, Hold)> {
        let host = self.anybody();
        let hold = self.atlas.hold(host.id)?;
        (!host.lost_power()).then_some((host, hold))
    }

    fn anybody(&self) -> &Host {
        self.hosts.choose(&mut thread_rng()).expect("there are hosts")
    }

    fn any_shard(&self) -> u32 {
        thread_rng().gen_range(0..=self.plan.shards)
    }

    fn leader(&self, shard: u32) -> Option<&Host> {
        let leads = |host: &&Host| host.node().is_some_and(|node| node.leads(shard));
        self.hosts.iter().find(leads)
    }
}

/// Waits for a while that is drawn, milliseconds.
async fn last(ms: std::ops::Range<u64>) {
    sleep(Duration::from_millis(thread_rng().gen_range(ms))).await;
}

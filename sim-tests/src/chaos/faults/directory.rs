//! Data directories that are not what they should be: lost, old, of another node, of another cluster, or with bits that
//! flipped.
//!
//! Each of these takes what a quorum can spare, so each begins when the cluster is whole, and is over when it is whole again.

use std::{
    fs::{self, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use super::{super::cluster, Scene};
use crate::chaos::{disks, node::Node, random::Random, shell};

/// The cluster is whole before, and again after, within this.
const WHOLE: Duration = Duration::from_secs(60);
/// How long a node runs with a directory of another cluster, milliseconds.
const WRONG_MS: Range<u64> = 2_000..8_000;
/// How old an old directory is, milliseconds.
const OLD_MS: Range<u64> = 1_000..6_000;
/// A node that is asked who it is says so within this, or goes on.
const SAYS_WITHIN: Duration = Duration::from_secs(10);
/// A log has a closed segment within this, when producers send as much as they can.
const FILLS_WITHIN: Duration = Duration::from_secs(20);
/// A node with the directory of another node, or with an old one, has ended by then.
const REFUSES_WITHIN: Duration = Duration::from_secs(30);
/// Both get each other's, or one gets that of another one that goes on.
const BOTH: f64 = 0.5;
/// So often producers send as much as they can while a directory gets old.
const OLD_UNDER_LOAD: f64 = 0.5;
/// Bits that flip.
const BITS: Range<u64> = 1..5;
/// What is left to those who rebuild another, MiB: more than the nodes keep free, less than a run stores.
const TIGHT_MIB: Range<u64> = 160..320;
/// How long producers send as much as they can meanwhile, milliseconds.
const HEAVY_MS: Range<u64> = 4_000..9_000;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A node comes back with nothing.
pub(super) async fn lost(scene: &Scene, mut random: Random) -> io::Result<()> {
    if !whole_before(scene).await {
        return Ok(());
    }
    lose(scene, scene.anybody(&mut random)).await?;
    whole_again(scene).await;
    Ok(())
}

/// A node comes back with nothing while producers send as much as they can, and those who have to rebuild it have little
/// room themselves: less than what is sent to it.
pub(super) async fn tight(scene: &Scene, mut random: Random) -> io::Result<()> {
    if !whole_before(scene).await {
        return Ok(());
    }
    let node = scene.anybody(&mut random);
    let others: Vec<&Node> = scene.nodes.iter().filter(|other| other.id != node.id).collect();
    let leave = random.within(TIGHT_MIB);
    let filled = others
        .iter()
        .try_for_each(|other| block_in_place(|| disks::fill(&other.directory, leave)).map(drop));
    scene.book.note(&format!("{leave} MiB are left to the others"));
    let lost = match filled {
        Ok(()) => lose(scene, node).await,
        error => error,
    };
    scene.heavy(true);
    scene.last(HEAVY_MS, &mut random).await;
    scene.heavy(false);
    let ended: Vec<u32> = others
        .iter()
        .filter(|other| !other.runs())
        .map(|other| other.id)
        .collect();
    if !ended.is_empty() {
        scene.book.broken(format!(
            "nodes: {ended:?} ended while they rebuilt node {} with little room",
            node.id
        ));
    }
    for other in &others {
        block_in_place(|| disks::empty(&other.directory))?;
    }
    lost?;
    whole_again(scene).await;
    Ok(())
}

/// A node comes back with the directory that it had a while ago: what it promised since is not in it. It must find out, and
/// is rebuilt.
pub(super) async fn old(scene: &Scene, mut random: Random) -> io::Result<()> {
    if !whole_before(scene).await {
        return Ok(());
    }
    let node = scene.anybody(&mut random);
    scene.book.note(&format!("an old directory for node {}", node.id));
    let (data, copy, newest) = (
        node.data(),
        node.directory.join("old"),
        node.directory.join("newest"),
    );
    node.kill().await?;
    block_in_place(|| shell::run("cp", &["-a", text(&data), text(&copy)]))?;
    node.start()?;
    if !whole_before(scene).await {
        return block_in_place(|| fs::remove_dir_all(&copy));
    }
    scene.heavy(random.chance(OLD_UNDER_LOAD));
    scene.last(OLD_MS, &mut random).await;
    scene.heavy(false);
    node.kill().await?;
    fs::rename(&data, &newest)?;
    fs::rename(&copy, &data)?;
    node.start_wrongly(&data)?;
    ends_soon(scene, &[node], "that it had a while ago").await;
    // It said that a person must decide, and the person decides that the others have everything.
    lose(scene, node).await?;
    whole_again(scene).await;
    block_in_place(|| fs::remove_dir_all(&newest))
}

/// A node is started with the directory of another cluster, and then with its own.
pub(super) async fn foreign(scene: &Scene, mut random: Random) -> io::Result<()> {
    let node = scene.anybody(&mut random);
    scene
        .book
        .note(&format!("node {} with a directory of another cluster", node.id));
    node.kill().await?;
    node.start_wrongly(&node.foreign())?;
    let said = Instant::now() + SAYS_WITHIN;
    scene.last(WRONG_MS, &mut random).await;
    while node.runs() && healthy_counts_it(scene, node).await && Instant::now() < said {
        sleep(LOOK_EVERY).await;
    }
    if healthy_counts_it(scene, node).await {
        scene.book.broken(format!(
            "nodes: node {} of another cluster is counted as one of this one",
            node.id
        ));
    }
    node.kill().await?;
    node.start()?;
    whole_again(scene).await;
    Ok(())
}

/// Two nodes are started with each other's directories, or one with that of another one that runs. They must refuse, and
/// with their own again they go on.
pub(super) async fn swapped(scene: &Scene, mut random: Random) -> io::Result<()> {
    if !whole_before(scene).await {
        return Ok(());
    }
    let mut all: Vec<&Node> = scene.nodes.iter().collect();
    random.shuffle(&mut all);
    let (one, other) = (all[0], all[1]);
    let both = random.chance(BOTH);
    let mut wrong = vec![one];
    one.kill().await?;
    if both {
        wrong.push(other);
        other.kill().await?;
        other.start_wrongly(&one.data())?;
    }
    scene.book.note(&format!(
        "node {} with the directory of node {}{}",
        one.id,
        other.id,
        if both {
            ", and the other way round"
        } else {
            ", which runs"
        }
    ));
    one.start_wrongly(&other.data())?;
    ends_soon(scene, &wrong, "of another node").await;
    for node in wrong {
        node.kill().await?;
        node.start()?;
    }
    whole_again(scene).await;
    Ok(())
}

/// Nodes with a wrong directory find out, and end.
async fn ends_soon(scene: &Scene, nodes: &[&Node], which: &str) {
    let end = Instant::now() + REFUSES_WITHIN;
    while nodes.iter().any(|node| node.runs()) && Instant::now() < end {
        sleep(LOOK_EVERY).await;
    }
    for node in nodes.iter().filter(|node| node.runs()) {
        scene.book.broken(format!(
            "nodes: node {} runs {REFUSES_WITHIN:?} with the directory {which}",
            node.id
        ));
    }
}

/// Bits flip in closed segments of one node, and another one loses everything: what the first has to send is damaged, and
/// only the third has it.
pub(super) async fn flipped(scene: &Scene, mut random: Random) -> io::Result<()> {
    if !whole_before(scene).await {
        return Ok(());
    }
    let damaged = scene.anybody(&mut random);
    let log = damaged.data().join("log");
    let closed = filled(scene, &log).await?;
    let flipped = block_in_place(|| flip(&closed, &mut random))?;
    scene
        .book
        .note(&format!("bits flipped on node {}: {flipped}", damaged.id));
    if flipped > 0 {
        let others: Vec<&Node> = scene.nodes.iter().filter(|node| node.id != damaged.id).collect();
        let other = others[random.within(0..others.len() as u64) as usize];
        lose(scene, other).await?;
    }
    whole_again(scene).await;
    Ok(())
}

pub(super) async fn lose(scene: &Scene, node: &Node) -> io::Result<()> {
    scene.book.note(&format!("node {} loses its directory", node.id));
    node.kill().await?;
    block_in_place(|| fs::remove_dir_all(node.data()))?;
    node.start()
}

/// Whether the others take the node for one that runs.
async fn healthy_counts_it(scene: &Scene, node: &Node) -> bool {
    let others: Vec<&Node> = scene.nodes.iter().filter(|other| other.id != node.id).collect();
    cluster::any_sees_alive(&others, node.id).await
}

pub(super) async fn whole_before(scene: &Scene) -> bool {
    let whole = cluster::whole(&scene.nodes, WHOLE).await;
    if let Err(ailments) = &whole {
        scene.book.broken(format!(
            "P11: the cluster is not whole {WHOLE:?} after the fault before: {ailments:?}"
        ));
    }
    whole.is_ok()
}

pub(super) async fn whole_again(scene: &Scene) {
    if let Err(ailments) = cluster::whole(&scene.nodes, WHOLE).await {
        scene.book.broken(format!(
            "P11: the cluster is not whole again after {WHOLE:?}: {ailments:?}"
        ));
    }
}

/// The closed segments of a log. Until there are some, producers send as much as they can.
pub(super) async fn filled(scene: &Scene, log: &Path) -> io::Result<Vec<PathBuf>> {
    let end = Instant::now() + FILLS_WITHIN;
    scene.heavy(true);
    let mut closed = closed(log)?;
    while closed.is_empty() && Instant::now() < end {
        sleep(LOOK_EVERY).await;
        closed = self::closed(log)?;
    }
    scene.heavy(false);
    Ok(closed)
}

fn closed(log: &Path) -> io::Result<Vec<PathBuf>> {
    let mut segments: Vec<PathBuf> = fs::read_dir(log)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort();
    // The newest is being written: what flips in its tail may be taken for a write that was torn.
    segments.pop();
    Ok(segments)
}

/// Flips some bits in segments; how many.
fn flip(segments: &[PathBuf], random: &mut Random) -> io::Result<u64> {
    if segments.is_empty() {
        return Ok(0);
    }
    let bits = random.within(BITS);
    for _ in 0..bits {
        let path = random.pick(segments);
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let at = random.within(0..file.metadata()?.len());
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        byte[0] ^= 1 << random.within(0..8);
        file.write_all_at(&byte, at)?;
    }
    Ok(bits)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths that this program made")
}

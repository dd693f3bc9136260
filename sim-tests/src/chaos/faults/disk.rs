//! Disks that are full or small, while clients send as much as they can.

use std::{io, ops::Range};

use tokio::task::block_in_place;

use super::{Scene, directory};
use crate::chaos::{disks, random::Random};

const FULL_MS: Range<u64> = 4_000..9_000;
/// What is left, MiB: nothing, or a little more than a segment.
const LEFT_MIB: Range<u64> = 0..24;
/// What is left on small disks, MiB: a little more than nodes keep free, so that nearly everything that is sent needs the
/// room of something older, or is refused.
const SMALL_MIB: Range<u64> = 130..260;
const SMALL_MS: Range<u64> = 6_000..15_000;

pub(super) async fn full(scene: &Scene, mut random: Random) -> io::Result<()> {
    let node = scene.anybody(&mut random);
    let leave = random.within(LEFT_MIB);
    let left = block_in_place(|| disks::fill(&node.directory, leave))?;
    scene.book.note(&format!(
        "the disk of node {} is full: {} KiB left",
        node.id,
        left >> 10
    ));
    scene.heavy(true);
    scene.last(FULL_MS, &mut random).await;
    scene.heavy(false);
    block_in_place(|| disks::empty(&node.directory))
}

/// All of them: there is no majority that has room.
pub(super) async fn small(scene: &Scene, mut random: Random) -> io::Result<()> {
    if !directory::whole_before(scene).await {
        return Ok(());
    }
    let mut left = Vec::new();
    for node in scene.nodes.iter() {
        let leave = random.within(SMALL_MIB);
        left.push(block_in_place(|| disks::fill(&node.directory, leave))? >> 20);
    }
    scene
        .book
        .note(&format!("all disks are small: {left:?} MiB left"));
    scene.heavy(true);
    scene.last(SMALL_MS, &mut random).await;
    scene.heavy(false);
    for node in scene.nodes.iter() {
        block_in_place(|| disks::empty(&node.directory))?;
    }
    directory::whole_again(scene).await;
    Ok(())
}

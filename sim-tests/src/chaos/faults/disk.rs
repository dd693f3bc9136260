//! A disk that is full, while clients send as much as they can.

use std::{io, ops::Range};

use tokio::task::block_in_place;

use super::Scene;
use crate::chaos::{disks, random::Random};

const FULL_MS: Range<u64> = 4_000..9_000;
/// What is left, MiB: nothing, or a little more than a segment.
const LEFT_MIB: Range<u64> = 0..24;

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

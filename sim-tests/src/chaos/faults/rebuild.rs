//! A node that lost its directory and is rebuilt while producers send as much as they can. In the middle of that there is a
//! second fault: of itself, or of one of those who rebuild it.

use std::{fs, io, ops::Range};

use tokio::{task::block_in_place, time::sleep};

use super::{
    Scene,
    directory::{filled, lose, whole_again, whole_before},
};
use crate::chaos::{node::Node, random::Random};

/// From the first start with nothing to the second fault, milliseconds.
const SECOND_MS: Range<u64> = 100..5_000;
/// So often it is the node itself that is killed, and so often it loses then what it had got so far.
const ITSELF: f64 = 0.6;
const LOSES_AGAIN: f64 = 0.4;
/// How long the second one is down, milliseconds.
const DOWN_MS: Range<u64> = 100..3_000;
/// How long producers go on so afterwards, milliseconds.
const HEAVY_MS: Range<u64> = 3_000..8_000;

pub(super) async fn under_load(scene: &Scene, mut random: Random) -> io::Result<()> {
    if !whole_before(scene).await {
        return Ok(());
    }
    let node = scene.anybody(&mut random);
    // There is something to send.
    filled(scene, &node.data().join("log")).await?;
    scene.heavy(true);
    let done = rebuild(scene, node, &mut random).await;
    scene.heavy(false);
    done?;
    whole_again(scene).await;
    Ok(())
}

async fn rebuild(scene: &Scene, node: &Node, random: &mut Random) -> io::Result<()> {
    lose(scene, node).await?;
    sleep(random.millis(SECOND_MS)).await;
    let others: Vec<&Node> = scene.nodes.iter().filter(|other| other.id != node.id).collect();
    let itself = random.chance(ITSELF);
    let second = if itself { node } else { random.pick(&others) };
    let loses = itself && random.chance(LOSES_AGAIN);
    scene.book.note(&format!(
        "kill -9 of node {} while node {} is rebuilt{}",
        second.id,
        node.id,
        if loses {
            ", and what it had got is lost"
        } else {
            ""
        }
    ));
    second.kill().await?;
    if loses {
        block_in_place(|| fs::remove_dir_all(second.data()))?;
    }
    sleep(random.millis(DOWN_MS)).await;
    second.start()?;
    scene.last(HEAVY_MS, random).await;
    Ok(())
}

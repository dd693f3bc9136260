//! Processes that die, alone or all together, with or without an orderly end, and processes that stand still.

use std::{io, ops::Range};

use futures::future::try_join_all;
use tokio::time::sleep;

use super::{super::cluster, Scene};
use crate::chaos::{
    node::{Node, STOP},
    random::Random,
};

/// How long nobody runs, or nothing moves, milliseconds.
const DOWN_MS: Range<u64> = 200..5_000;
/// The nodes come back one after the other.
const APART_MS: Range<u64> = 0..1_000;
/// Shorter than an election takes, or much longer.
const STILL_MS: Range<u64> = 300..7_000;
/// The node that leads most is the victim so often.
const BUSIEST: f64 = 0.7;

async fn victim<'a>(scene: &'a Scene, random: &mut Random) -> &'a Node {
    let anybody = scene.anybody(random);
    if !random.chance(BUSIEST) {
        return anybody;
    }
    let busiest = cluster::leading_most(&scene.nodes).await;
    scene
        .nodes
        .iter()
        .find(|node| Some(node.id) == busiest)
        .unwrap_or(anybody)
}

pub(super) async fn kill(scene: &Scene, mut random: Random) -> io::Result<()> {
    let node = victim(scene, &mut random).await;
    scene.book.note(&format!("kill -9 of node {}", node.id));
    node.kill().await?;
    scene.last(DOWN_MS, &mut random).await;
    node.start()
}

pub(super) async fn kill_all(scene: &Scene, mut random: Random) -> io::Result<()> {
    scene.book.note("kill -9 of all nodes");
    try_join_all(scene.nodes.iter().map(Node::kill)).await?;
    start_all(scene, &mut random).await
}

pub(super) async fn restart(scene: &Scene, mut random: Random) -> io::Result<()> {
    let node = victim(scene, &mut random).await;
    scene.book.note(&format!("restart of node {}", node.id));
    stop(scene, node).await?;
    scene.last(DOWN_MS, &mut random).await;
    node.start()
}

pub(super) async fn restart_all(scene: &Scene, mut random: Random) -> io::Result<()> {
    scene.book.note("restart of all nodes");
    try_join_all(scene.nodes.iter().map(|node| stop(scene, node))).await?;
    start_all(scene, &mut random).await
}

pub(super) async fn pause(scene: &Scene, mut random: Random) -> io::Result<()> {
    let node = victim(scene, &mut random).await;
    scene.book.note(&format!("SIGSTOP of node {}", node.id));
    node.pause()?;
    scene.last(STILL_MS, &mut random).await;
    node.resume()
}

async fn stop(scene: &Scene, node: &Node) -> io::Result<()> {
    match node.stop().await? {
        Some(status) if status.success() => {}
        Some(status) => scene
            .book
            .broken(format!("nodes: node {} was asked to end: {status}", node.id)),
        None => scene
            .book
            .broken(format!("nodes: node {} did not end within {STOP:?}", node.id)),
    }
    Ok(())
}

async fn start_all(scene: &Scene, random: &mut Random) -> io::Result<()> {
    let order = random.within(0..scene.nodes.len() as u64) as usize;
    for node in scene.nodes.iter().cycle().skip(order).take(scene.nodes.len()) {
        sleep(random.millis(APART_MS)).await;
        node.start()?;
    }
    Ok(())
}

//! Links that are cut, in both directions or in one, and links that are bad.

use std::{collections::BTreeMap, io, ops::Range};

use tokio::task::block_in_place;

use super::Scene;
use crate::chaos::{
    network::{CLIENTS, Weather},
    random::Random,
};

/// Long enough for an election, and often for more than one.
const CUT_MS: Range<u64> = 500..7_000;
const BAD_MS: Range<u64> = 2_000..7_000;
/// Share of packets that get lost, percent.
const LOST_PERCENT: Range<u64> = 2..20;

async fn cut_for_a_while(scene: &Scene, mut random: Random, links: &[(u32, u32)]) -> io::Result<()> {
    let lost = links.iter().map(|link| (*link, 1.0)).collect();
    for_a_while(scene, &mut random, CUT_MS, Weather { lost, slow: false }).await
}

async fn for_a_while(scene: &Scene, random: &mut Random, ms: Range<u64>, weather: Weather) -> io::Result<()> {
    block_in_place(|| scene.network.set(&weather))?;
    scene.last(ms, random).await;
    block_in_place(|| scene.network.set(&Weather::default()))
}

fn both_ways(one: u32, others: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    others.flat_map(|other| [(one, other), (other, one)]).collect()
}

fn nodes(scene: &Scene) -> Vec<u32> {
    scene.nodes.iter().map(|node| node.id).collect()
}

pub(super) async fn isolate(scene: &Scene, mut random: Random) -> io::Result<()> {
    let one = random.pick(&nodes(scene));
    scene.book.note(&format!("node {one} is isolated"));
    let others = nodes(scene)
        .into_iter()
        .chain([CLIENTS])
        .filter(|other| *other != one);
    cut_for_a_while(scene, random, &both_ways(one, others)).await
}

/// Nodes only: clients still reach everybody, as in many a real partition.
pub(super) async fn partition(scene: &Scene, mut random: Random) -> io::Result<()> {
    let one = random.pick(&nodes(scene));
    scene
        .book
        .note(&format!("node {one} is cut off from the other nodes"));
    let others = nodes(scene).into_iter().filter(|other| *other != one);
    cut_for_a_while(scene, random, &both_ways(one, others)).await
}

pub(super) async fn one_way(scene: &Scene, mut random: Random) -> io::Result<()> {
    let mut all = nodes(scene);
    random.shuffle(&mut all);
    let (from, to) = (all[0], all[1]);
    scene.book.note(&format!("node {to} does not hear node {from}"));
    cut_for_a_while(scene, random, &[(from, to)]).await
}

pub(super) async fn loss(scene: &Scene, mut random: Random) -> io::Result<()> {
    let percent = random.within(LOST_PERCENT);
    scene.book.note(&format!("{percent} % of all packets get lost"));
    let parties: Vec<u32> = nodes(scene).into_iter().chain([CLIENTS]).collect();
    let links = parties
        .iter()
        .flat_map(|from| parties.iter().map(move |to| (*from, *to)));
    let lost: BTreeMap<_, _> = links
        .filter(|(from, to)| from != to)
        .map(|link| (link, percent as f64 / 100.0))
        .collect();
    for_a_while(scene, &mut random, BAD_MS, Weather { lost, slow: false }).await
}

pub(super) async fn latency(scene: &Scene, mut random: Random) -> io::Result<()> {
    scene.book.note("all links are slow");
    let lost = BTreeMap::new();
    for_a_while(scene, &mut random, BAD_MS, Weather { lost, slow: true }).await
}

//! Links that are cut, in both directions or in one, and links that are bad; and connections of clients that are cut.

use std::{io, ops::Range};

use tokio::task::block_in_place;

use super::Scene;
use crate::chaos::{
    network::{CLIENTS, Slow, Weather},
    random::Random,
};

/// Long enough for an election, and often for more than one.
const CUT_MS: Range<u64> = 500..7_000;
const BAD_MS: Range<u64> = 2_000..7_000;
/// Links that are slow: their shortest delay, milliseconds, and what passes, kilobits a second, on all of them or on one.
const DELAY_MS: Range<u64> = 10..60;
const ALL_KBIT: Range<u64> = 1_000..8_000;
const ONE_KBIT: Range<u64> = 128..8_192;
/// How long connections of clients are cut, milliseconds.
const STORM_MS: Range<u64> = 3_000..10_000;
/// Share of packets that get lost, percent.
const LOST_PERCENT: Range<u64> = 2..20;

async fn cut_for_a_while(scene: &Scene, mut random: Random, links: &[(u32, u32)]) -> io::Result<()> {
    let lost = links.iter().map(|link| (*link, 1.0)).collect();
    let weather = Weather {
        lost,
        ..Weather::default()
    };
    for_a_while(scene, &mut random, CUT_MS, weather).await
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
    let lost = all_links(scene)
        .into_iter()
        .map(|link| (link, percent as f64 / 100.0));
    let weather = Weather {
        lost: lost.collect(),
        ..Weather::default()
    };
    for_a_while(scene, &mut random, BAD_MS, weather).await
}

pub(super) async fn latency(scene: &Scene, mut random: Random) -> io::Result<()> {
    let slow = draw_slow(&mut random, ALL_KBIT);
    scene
        .book
        .note(&format!("all links are slow: {}", in_words(slow)));
    be_slow(scene, &mut random, all_links(scene), slow).await
}

/// One link only: whoever is on it is slower than the others, and not gone.
pub(super) async fn slow_link(scene: &Scene, mut random: Random) -> io::Result<()> {
    let mut all: Vec<u32> = nodes(scene);
    random.shuffle(&mut all);
    all.insert(random.within(1..3) as usize, CLIENTS);
    let (one, other) = (all[0], all[1]);
    let slow = draw_slow(&mut random, ONE_KBIT);
    let name = if other == CLIENTS {
        "the clients".to_owned()
    } else {
        format!("node {other}")
    };
    scene.book.note(&format!(
        "the link between node {one} and {name} is slow: {}",
        in_words(slow)
    ));
    let links = both_ways(one, [other].into_iter());
    be_slow(scene, &mut random, links, slow).await
}

/// Connections of all clients to all nodes.
pub(super) async fn cut_clients(scene: &Scene, mut random: Random) -> io::Result<()> {
    let before = scene.doors.cuts();
    scene.book.note("connections of clients are cut");
    scene.doors.cut(true);
    scene.last(STORM_MS, &mut random).await;
    scene.doors.cut(false);
    let cut = scene.doors.cuts() - before;
    scene.book.note(&format!("{cut} connections of clients were cut"));
    Ok(())
}

fn all_links(scene: &Scene) -> Vec<(u32, u32)> {
    let parties: Vec<u32> = nodes(scene).into_iter().chain([CLIENTS]).collect();
    let links = parties
        .iter()
        .flat_map(|from| parties.iter().map(move |to| (*from, *to)));
    links.filter(|(from, to)| from != to).collect()
}

fn draw_slow(random: &mut Random, kbit: Range<u64>) -> Slow {
    Slow {
        delay_ms: random.within(DELAY_MS),
        // The narrow ones are as frequent as the wide ones.
        kbit: kbit.start << random.within(0..u64::from((kbit.end / kbit.start).ilog2()) + 1),
    }
}

fn in_words(slow: Slow) -> String {
    format!("{} kbit/s, {} ms or more", slow.kbit, slow.delay_ms)
}

async fn be_slow(scene: &Scene, random: &mut Random, links: Vec<(u32, u32)>, slow: Slow) -> io::Result<()> {
    let weather = Weather {
        slow: links.into_iter().map(|link| (link, slow)).collect(),
        ..Weather::default()
    };
    for_a_while(scene, random, BAD_MS, weather).await
}

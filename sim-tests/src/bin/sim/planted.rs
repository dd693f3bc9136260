//! Measures the simulator: how many seeds it needs to find each planted bug.
//!
//! A bug counts as found by the first seed that fails with it and passes without it.

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Child, ExitCode, Output},
    thread,
    time::{Duration, Instant},
};

use plant::Bug;

use crate::process::{self, AT_ONCE};

/// Seeds tried for each bug unless the command line says otherwise.
pub(crate) const MAX_SEEDS: u64 = 2_000;
/// How long one bug may be looked for.
const BUG_BUDGET: Duration = Duration::from_secs(1_800);
/// A run that takes longer has lost its way, and says nothing.
const RUN_BUDGET: Duration = Duration::from_secs(120);
/// How often a run is asked whether it is over.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// Of so many bugs out of a hundred the simulator must find.
const MUST_FIND_PERCENT: usize = 95;
/// Longest violation in the table.
const SHOWN: usize = 100;

/// What became of the search for one bug.
struct Search {
    bug: Bug,
    /// Seeds tried, and what the last one said if it found the bug.
    seeds: u64,
    found: Option<String>,
}

/// Looks for these bugs, or for all; nothing if one has another name.
pub(crate) fn all(most: u64, names: &[&str]) -> Option<ExitCode> {
    let named = |name: &&str| plant::ALL.iter().copied().find(|bug| bug.name() == *name);
    let bugs: Vec<Bug> = match names {
        [] => plant::ALL.to_vec(),
        names => names.iter().map(named).collect::<Option<_>>()?,
    };
    let mut sound = BTreeMap::new();
    let mut searches: Vec<Search> = Vec::new();
    for bug in bugs {
        let search = look_for(bug, most, &mut sound);
        println!("{}", line(&search));
        let _ = std::io::stdout().flush();
        searches.push(search);
    }
    Some(conclude(&searches))
}

fn line(search: &Search) -> String {
    let Search { bug, seeds, found } = search;
    let what = found.as_deref().unwrap_or("not found");
    let shown: String = what.chars().take(SHOWN).collect();
    format!("{:<30} {seeds:>5}  {shown}", bug.name())
}

fn conclude(searches: &[Search]) -> ExitCode {
    println!("\n| bug | kind | what is planted | seeds | found by |\n|---|---|---|---|---|");
    for Search { bug, seeds, found } in searches {
        let by: String = found.as_deref().unwrap_or("-").chars().take(SHOWN).collect();
        let seeds = if found.is_some() {
            seeds.to_string()
        } else {
            format!("> {seeds}")
        };
        println!(
            "| {} | {} | {} | {seeds} | {by} |",
            bug.name(),
            bug.kind(),
            bug.what()
        );
    }
    let passed = searches.iter().filter(|search| search.found.is_some()).count();
    println!("{passed} passed, {} failed", searches.len() - passed);
    if passed * 100 >= searches.len() * MUST_FIND_PERCENT {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Tries one seed after the other; `sound` remembers which seeds pass without a bug.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the driver, outside of the simulation"
)]
fn look_for(bug: Bug, most: u64, sound: &mut BTreeMap<u64, bool>) -> Search {
    let began = Instant::now();
    let mut seeds = 0;
    while seeds < most && began.elapsed() < BUG_BUDGET {
        let first = seeds + 1;
        let last = most.min(seeds + AT_ONCE as u64);
        for (seed, output) in run((first..=last).map(|seed| (seed, Some(bug)))) {
            seeds = seed;
            let Some(output) = output.filter(|output| !output.status.success()) else {
                continue;
            };
            if is_sound(seed, sound) {
                let found = Some(process::first_complaint(&output));
                return Search { bug, seeds, found };
            }
        }
    }
    Search {
        bug,
        seeds,
        found: None,
    }
}

/// Whether a seed passes without a planted bug; says so where it does not.
fn is_sound(seed: u64, sound: &mut BTreeMap<u64, bool>) -> bool {
    *sound.entry(seed).or_insert_with(|| {
        let (_, output) = run([(seed, None)].into_iter()).pop().expect("there is one");
        let why = match &output {
            None => format!("takes longer than {RUN_BUDGET:?}"),
            Some(output) if output.status.success() => return true,
            Some(output) => process::first_complaint(output),
        };
        println!("seed {seed} proves nothing, because it fails without a planted bug: {why}");
        false
    })
}

/// Runs seeds at the same time; nothing came of those that took too long.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the driver, outside of the simulation"
)]
fn run(all: impl Iterator<Item = (u64, Option<Bug>)>) -> Vec<(u64, Option<Output>)> {
    let end = Instant::now() + RUN_BUDGET;
    let children: Vec<(u64, Child)> = all.map(|(seed, bug)| (seed, process::start(seed, bug))).collect();
    children
        .into_iter()
        .map(|(seed, mut child)| {
            let mut ended = false;
            while !ended && Instant::now() < end {
                ended = child
                    .try_wait()
                    .expect("a started program can be asked")
                    .is_some();
                if !ended {
                    thread::sleep(ASK_EVERY);
                }
            }
            if !ended {
                let _ = child.kill();
            }
            let output = child.wait_with_output().expect("a started program ends");
            (seed, ended.then_some(output))
        })
        .collect()
}

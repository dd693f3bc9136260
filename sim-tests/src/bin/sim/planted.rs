//! Measures the simulator: how many seeds it needs to find each planted bug.
//!
//! A bug counts as found by the first seed that fails with it and passes without it. Seeds whose worlds have nothing that
//! the bug needs are counted, and not run.

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Child, ExitCode, Output},
    thread,
    time::{Duration, Instant},
};

use plant::Bug;
use sim_tests::{plan::Plan, world};

use crate::process::{self, AT_ONCE};

/// Seeds tried for each bug unless the command line says otherwise.
pub(crate) const MAX_SEEDS: u64 = 2_000;
/// How long one bug may be looked for.
const BUG_BUDGET: Duration = Duration::from_secs(1_800);
/// A run that takes longer has lost its way, and says nothing.
const RUN_BUDGET: Duration = Duration::from_secs(60);
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

/// One run under way.
struct Run {
    seed: u64,
    child: Child,
    end: Instant,
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the driver, outside of the simulation"
)]
impl Run {
    fn start(seed: u64, bug: Option<Bug>) -> Run {
        Run {
            seed,
            child: process::start(seed, bug),
            end: Instant::now() + RUN_BUDGET,
        }
    }

    fn has_ended(&mut self) -> bool {
        let ended = self.child.try_wait().expect("a started program can be asked");
        ended.is_some()
    }

    fn is_over(&mut self) -> bool {
        self.has_ended() || Instant::now() >= self.end
    }

    /// What it said; nothing if it took too long.
    fn finish(mut self) -> Option<Output> {
        while !self.is_over() {
            thread::sleep(ASK_EVERY);
        }
        let ended = self.has_ended();
        if !ended {
            let _ = self.child.kill();
        }
        let output = self.child.wait_with_output().expect("a started program ends");
        ended.then_some(output)
    }

    fn give_up(mut self) {
        self.end = Instant::now();
        self.finish();
    }
}

/// Tries seeds in order, some at the same time; `sound` remembers which of them pass without a bug.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the driver, outside of the simulation"
)]
fn look_for(bug: Bug, most: u64, sound: &mut BTreeMap<u64, bool>) -> Search {
    let began = Instant::now();
    let mut running: Vec<Run> = Vec::new();
    let mut failed: BTreeMap<u64, Output> = BTreeMap::new();
    let mut seeds = 0;
    loop {
        // A failure is judged when all seeds before it are over.
        let oldest = running.first().map_or(u64::MAX, |run| run.seed);
        while failed.first_key_value().is_some_and(|(seed, _)| *seed < oldest) {
            let (seed, output) = failed.pop_first().expect("just seen");
            if is_sound(seed, sound) {
                running.into_iter().for_each(Run::give_up);
                let found = Some(process::first_complaint(&output));
                return Search {
                    bug,
                    seeds: seed,
                    found,
                };
            }
        }
        let more = seeds < most && began.elapsed() < BUG_BUDGET && failed.is_empty();
        if more && running.len() < AT_ONCE {
            seeds += 1;
            if sound.get(&seeds) != Some(&false) && plan_of(seeds).offers(bug) {
                running.push(Run::start(seeds, Some(bug)));
            }
        } else if running.is_empty() {
            return Search {
                bug,
                seeds,
                found: None,
            };
        } else {
            thread::sleep(ASK_EVERY);
            for (seed, output) in ended(&mut running) {
                match output {
                    Some(output) if output.status.success() => {}
                    Some(output) => _ = failed.insert(seed, output),
                    // Not to be waited for with every other bug.
                    None => _ = is_sound(seed, sound),
                }
            }
        }
    }
}

/// In a thread of its own, as a run: a world's time and randomness are its thread's.
#[expect(
    clippy::disallowed_methods,
    reason = "this thread is what holds the simulator"
)]
fn plan_of(seed: u64) -> Plan {
    let drawn = thread::spawn(move || world::plan(seed)).join();
    drawn.expect("drawing does not panic")
}

/// Takes out the runs that are over, with what they said.
fn ended(running: &mut Vec<Run>) -> Vec<(u64, Option<Output>)> {
    let over: Vec<Run> = running.extract_if(.., Run::is_over).collect();
    over.into_iter().map(|run| (run.seed, run.finish())).collect()
}

/// Whether a seed passes without a planted bug; says so where it does not.
fn is_sound(seed: u64, sound: &mut BTreeMap<u64, bool>) -> bool {
    *sound.entry(seed).or_insert_with(|| {
        let why = match Run::start(seed, None).finish() {
            None => format!("it takes longer than {RUN_BUDGET:?}"),
            Some(output) if output.status.success() => return true,
            Some(output) => process::first_complaint(&output),
        };
        println!("seed {seed} proves nothing, because it fails without a planted bug: {why}");
        false
    })
}

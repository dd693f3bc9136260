//! Measures the simulator: how many seeds it needs to find each planted bug.
//!
//! A bug counts as found by the first seed that fails with it and passes without it. Each seed runs without a bug first, once
//! for all of them, and tells which planted lines it reaches; where a bug's line is not, the seed is counted, and not run.

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Child, ExitCode, Output},
    thread,
    time::{Duration, Instant},
};

use plant::Bug;
use sim_tests::{plan::Plan, world};

use crate::process::{self, AT_ONCE, REACHED};

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

/// Of seeds that were run without a planted bug: the bugs whose lines they reach; nothing of one that fails.
type Sound = BTreeMap<u64, Option<Vec<Bug>>>;

/// Looks for these bugs, or for all; nothing if one has another name.
pub(crate) fn all(most: u64, names: &[&str]) -> Option<ExitCode> {
    let named = |name: &&str| plant::ALL.iter().copied().find(|bug| bug.name() == *name);
    let bugs: Vec<Bug> = match names {
        [] => plant::ALL.to_vec(),
        names => names.iter().map(named).collect::<Option<_>>()?,
    };
    let mut sound = Sound::default();
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
    bug: Option<Bug>,
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
            bug,
            child: process::start(seed, bug),
            end: Instant::now() + RUN_BUDGET,
        }
    }

    /// The next run that a seed needs: without a bug, then with it, unless nothing can come of that.
    fn next(seed: u64, bug: Bug, sound: &Sound) -> Option<Run> {
        match sound.get(&seed) {
            None => plan_of(seed).offers(bug).then(|| Run::start(seed, None)),
            Some(Some(reached)) if reached.contains(&bug) => Some(Run::start(seed, Some(bug))),
            Some(_) => None,
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

/// Tries seeds in order, some at the same time; `sound` remembers what they do without a bug.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the driver, outside of the simulation"
)]
fn look_for(bug: Bug, most: u64, sound: &mut Sound) -> Search {
    let began = Instant::now();
    let mut running: Vec<Run> = Vec::new();
    let mut failed: BTreeMap<u64, Output> = BTreeMap::new();
    let mut seeds = 0;
    loop {
        // A failure counts when all seeds before it are over.
        let oldest = running.iter().map(|run| run.seed).min().unwrap_or(u64::MAX);
        if let Some((&seed, output)) = failed.first_key_value()
            && seed < oldest
        {
            let found = Some(process::first_complaint(output));
            running.into_iter().for_each(Run::give_up);
            return Search {
                bug,
                seeds: seed,
                found,
            };
        }
        let more = seeds < most && began.elapsed() < BUG_BUDGET && failed.is_empty();
        if more && running.len() < AT_ONCE {
            seeds += 1;
            running.extend(Run::next(seeds, bug, sound));
        } else if running.is_empty() {
            return Search {
                bug,
                seeds,
                found: None,
            };
        } else {
            thread::sleep(ASK_EVERY);
            let over: Vec<Run> = running.extract_if(.., Run::is_over).collect();
            for run in over {
                let seed = run.seed;
                match (run.bug, run.finish()) {
                    (None, output) => {
                        sound.insert(seed, reached(seed, output.as_ref()));
                        running.extend(Run::next(seed, bug, sound));
                    }
                    (Some(_), Some(output)) if !output.status.success() => _ = failed.insert(seed, output),
                    // Passed, or lost its way.
                    (Some(_), _) => {}
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

/// The bugs whose lines a run without a bug has reached, if it passes; says so where it does not.
fn reached(seed: u64, output: Option<&Output>) -> Option<Vec<Bug>> {
    let why = match output {
        None => format!("it takes longer than {RUN_BUDGET:?}"),
        Some(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            let names = text.lines().find_map(|line| line.strip_prefix(REACHED));
            let names: Vec<&str> = names.unwrap_or_default().trim().split(';').collect();
            let was_reached = |bug: &Bug| names.contains(&bug.name());
            return Some(plant::ALL.iter().copied().filter(was_reached).collect());
        }
        Some(output) => process::first_complaint(output),
    };
    println!("seed {seed} proves nothing, because it fails without a planted bug: {why}");
    None
}

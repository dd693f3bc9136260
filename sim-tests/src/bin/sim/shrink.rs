//! The simplest form of a failing world: takes away faults, clients and messages for as long as it still fails.

use std::process::{ExitCode, Output};

use crate::process::{SIMPLER, first_complaint, start_with};

/// Runs at most.
const RUNS: u32 = 200;

/// A run that fails, and what could be simpler about it.
struct Failing {
    complaint: String,
    simpler: Vec<String>,
}

/// Shrinks the world of a seed and prints how to repeat what is left.
pub(crate) fn shrink(seed: u64, plant: &[&str]) -> ExitCode {
    let Some(mut failing) = fails(seed, plant, &[]) else {
        println!("seed {seed} does not fail");
        return ExitCode::FAILURE;
    };
    println!("seed {seed}: {}", failing.complaint);
    let kind = promise(&failing.complaint).to_owned();
    let (mut changes, mut useless, mut runs): (Vec<String>, Vec<String>, u32) = (Vec::new(), Vec::new(), 1);
    while runs < RUNS {
        let Some(next) = failing
            .simpler
            .iter()
            .find(|change| !useless.contains(change))
            .cloned()
        else {
            break;
        };
        runs += 1;
        let tried: Vec<String> = changes.iter().cloned().chain([next.clone()]).collect();
        match fails(seed, plant, &tried).filter(|still| promise(&still.complaint) == kind) {
            Some(still) => {
                println!("still fails with {next}");
                (failing, changes) = (still, tried);
            }
            None => useless.push(next),
        }
    }
    println!("after {runs} runs: {}", failing.complaint);
    let options: Vec<String> = changes
        .iter()
        .map(|change| format!("--change {change}"))
        .collect();
    println!(
        "repeat it with: scripts/sim.sh replay {seed} {} {}",
        plant.join(" "),
        options.join(" ")
    );
    ExitCode::SUCCESS
}

/// What the world says if it fails.
fn fails(seed: u64, plant: &[&str], changes: &[String]) -> Option<Failing> {
    let mut options = plant.to_vec();
    for change in changes {
        options.extend(["--change", change]);
    }
    let output: Output = start_with(seed, &options)
        .wait_with_output()
        .expect("a started program ends");
    if output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let simpler = text.lines().find_map(|line| line.strip_prefix(SIMPLER));
    let words = simpler.unwrap_or_default().trim().split(';');
    Some(Failing {
        complaint: first_complaint(&output),
        simpler: words.filter(|word| !word.is_empty()).map(str::to_owned).collect(),
    })
}

/// The promise that is broken, or the kind of panic: a world that fails in another way is another story.
fn promise(complaint: &str) -> &str {
    complaint.split([':', ' ']).next().unwrap_or(complaint)
}

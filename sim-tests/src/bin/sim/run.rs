//! One world, in this process.

use std::process::ExitCode;

use sim_tests::{
    log,
    world::{self, CannotRun},
};

use crate::process::{COVERED, PLAN, REACHED, RESULT, SIMPLER};

/// Violations that are printed; those that follow are seldom another story.
const SHOWN: usize = 20;

/// Lines of the timeline that are printed.
const TIMELINE: usize = 200;

/// Runs the world of a seed; nothing if an option is unknown.
pub(crate) fn run(seed: u64, options: &[&str]) -> Option<ExitCode> {
    let (mut changes, mut trace) = (Vec::new(), None);
    for option in options.chunks(2) {
        match option {
            ["--trace", file] => trace = Some((*file).into()),
            ["--change", change] => changes.push((*change).to_owned()),
            ["--plant", bug] if plant::activate(bug) => {}
            _ => return None,
        }
    }
    Some(run_traced(seed, changes, trace))
}

fn run_traced(seed: u64, changes: Vec<String>, trace: Option<std::path::PathBuf>) -> ExitCode {
    log::start();
    let report = match in_a_fresh_thread(move || world::run(seed, &changes, trace.as_deref())) {
        Ok(report) => report,
        Err(CannotRun::Trace(error)) => {
            eprintln!("seed {seed}: the trace file cannot be written: {error}");
            return ExitCode::from(2);
        }
        Err(CannotRun::Change(what)) => {
            eprintln!("seed {seed}: {what}");
            return ExitCode::from(2);
        }
    };
    let tally = report.tally;
    println!("{PLAN} {}", report.plan);
    let covered: Vec<String> = report
        .coverage
        .iter()
        .map(|(what, count)| format!("{what}={count}"))
        .collect();
    println!("{COVERED} {}", covered.join(";"));
    println!("{SIMPLER} {}", report.simpler.join(";"));
    let reached: Vec<&str> = plant::reached().map(plant::Bug::name).collect();
    println!("{REACHED} {}", reached.join(";"));
    println!(
        "{RESULT} seed {seed} hash {:016x} events {} stored {} delivered {} acked {} simulated {:.3} s violations {}",
        report.digest.hash,
        report.digest.events,
        tally.stored,
        tally.delivered,
        tally.acked,
        report.simulated.as_secs_f64(),
        report.violations.len()
    );
    for violation in report.violations.iter().take(SHOWN) {
        println!("seed {seed}: {violation}");
    }
    for line in report.timeline.iter().take(TIMELINE) {
        println!("{line}");
    }
    if report.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Hash maps of the standard library iterate by keys drawn once per thread; only in a thread that has
/// not drawn yet do they come from the seed.
#[expect(
    clippy::disallowed_methods,
    reason = "this thread is what holds the simulator"
)]
fn in_a_fresh_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match std::thread::spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

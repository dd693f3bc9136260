//! Runs simulated clusters.
//!
//! `sim run SEED [--trace FILE]` runs one world and prints its hash. `sim smoke [COUNT]` runs a few
//! seeds, each in two processes, and demands good ends and equal hashes: the simulator proves itself
//! before it is believed.

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    driver::main()
}

#[cfg(not(madsim))]
fn main() {
    eprintln!("the simulator is built with RUSTFLAGS=\"--cfg madsim\": run `make sim-smoke`");
    std::process::exit(2);
}

#[cfg(madsim)]
mod driver {
    use std::{
        env,
        path::PathBuf,
        process::{Child, Command, ExitCode, Output, Stdio},
    };

    use sim_tests::{log, world};

    const FIRST_SEED: u64 = 1;
    const SMOKE_SEEDS: u64 = 3;
    const USAGE: &str = "usage: sim run SEED [--trace FILE] | sim smoke [COUNT]";
    /// Start of the line that two runs of a seed must have in common.
    const RESULT: &str = "result:";

    pub(super) fn main() -> ExitCode {
        let arguments: Vec<String> = env::args().skip(1).collect();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["run", seed] => run(seed, None),
            ["run", seed, "--trace", file] => run(seed, Some(file.into())),
            ["smoke"] => smoke(SMOKE_SEEDS),
            ["smoke", count] => match count.parse() {
                Ok(count) => smoke(count),
                Err(_) => usage(),
            },
            _ => usage(),
        }
    }

    fn usage() -> ExitCode {
        eprintln!("{USAGE}");
        ExitCode::from(2)
    }

    fn run(seed: &str, trace: Option<PathBuf>) -> ExitCode {
        let Ok(seed) = seed.parse::<u64>() else {
            return usage();
        };
        log::start();
        let report = match in_a_fresh_thread(move || world::run(seed, trace.as_deref())) {
            Ok(report) => report,
            Err(error) => {
                eprintln!("seed {seed}: the trace file cannot be written: {error}");
                return ExitCode::from(2);
            }
        };
        let tally = report.tally;
        println!(
            "{RESULT} seed {seed} hash {:016x} events {} stored {} delivered {} done {} twice {} simulated {:.3} s violations {}",
            report.digest.hash,
            report.digest.events,
            tally.stored,
            tally.delivered,
            tally.done,
            tally.twice,
            report.simulated.as_secs_f64(),
            report.violations.len()
        );
        for violation in &report.violations {
            println!("seed {seed}: {violation}");
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

    fn smoke(count: u64) -> ExitCode {
        let (mut passed, mut failed) = (0, 0);
        for seed in FIRST_SEED..FIRST_SEED + count {
            // Two at a time: they must not notice each other.
            let runs = [start(seed), start(seed)].map(finish);
            match judge(&runs) {
                Ok(line) => {
                    println!("ok      {line}");
                    passed += 1;
                }
                Err(why) => {
                    println!(
                        "FAILED  seed {seed}: {why}\n        repeat it with: sim run {seed} --trace FILE"
                    );
                    failed += 1;
                }
            }
        }
        println!("{passed} passed, {failed} failed");
        if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn start(seed: u64) -> Child {
        let myself = env::current_exe().expect("this program has a path");
        Command::new(myself)
            .args(["run", &seed.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this program can be started again")
    }

    fn finish(run: Child) -> Output {
        run.wait_with_output().expect("a started program ends")
    }

    fn judge(runs: &[Output; 2]) -> Result<String, String> {
        let mut lines = Vec::new();
        for run in runs {
            let said = String::from_utf8_lossy(&run.stdout);
            if !run.status.success() {
                let errors = String::from_utf8_lossy(&run.stderr);
                return Err(format!("{}\n{said}{errors}", run.status));
            }
            let line = said.lines().find_map(|line| line.strip_prefix(RESULT));
            lines.push(line.ok_or("it printed no result")?.trim().to_owned());
        }
        if lines[0] == lines[1] {
            Ok(lines.remove(0))
        } else {
            Err(format!(
                "two runs differ:\n        {}\n        {}",
                lines[0], lines[1]
            ))
        }
    }
}

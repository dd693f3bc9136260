//! Runs simulated clusters.
//!
//! `sim run SEED [--trace FILE]` runs one world and prints what was drawn, what happened, and the hash of everything.
//! `sim meta N [FIRST]` runs seeds in two processes each, and demands equal hashes: the simulator proves itself before it
//! is believed. `sim sweep N [FIRST]` runs seeds once each and sums up what they covered.

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
        collections::BTreeMap,
        env,
        io::Write,
        path::PathBuf,
        process::{Child, Command, ExitCode, Stdio},
    };

    use sim_tests::{
        log,
        plan::Fault,
        world::{self, CannotRun},
    };

    const USAGE: &str = "usage: sim run SEED [--trace FILE] [--change NAME=VALUE].. | sim meta N [FIRST] | sim sweep N [FIRST]";
    /// Processes at the same time.
    const AT_ONCE: usize = 2;
    /// Starts of lines that the driver reads.
    const PLAN: &str = "plan:";
    const RESULT: &str = "result:";
    const COVERED: &str = "covered:";
    const SIMPLER: &str = "simpler:";
    /// A sweep of at least so many seeds must have seen everything.
    const ENOUGH_SEEDS: u64 = 100;
    /// What a sweep must have seen besides every fault.
    const MUST_HAPPEN: [&str; 13] = [
        "send stored",
        "send unknown",
        "receive some",
        "receive nothing",
        "receive again",
        "ack done",
        "ack refused",
        "ack unknown",
        "hide done",
        "hide refused",
        "bury done",
        "consumer forgets",
        "consumer is late",
    ];

    pub(super) fn main() -> ExitCode {
        let arguments: Vec<String> = env::args().skip(1).collect();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let number = |text: &str| text.parse::<u64>().ok();
        let parsed = match words.as_slice() {
            ["run", seed, changes @ ..] => number(seed).map(|seed| run(seed, changes)),
            [how @ ("meta" | "sweep"), count] => number(count).map(|count| many(how, count, 1)),
            [how @ ("meta" | "sweep"), count, first] => number(count)
                .zip(number(first))
                .map(|(count, first)| many(how, count, first)),
            _ => None,
        };
        parsed.unwrap_or_else(|| {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        })
    }

    fn run(seed: u64, words: &[&str]) -> ExitCode {
        log::start();
        let (mut changes, mut trace) = (Vec::new(), None);
        for pair in words.chunks(2) {
            match pair {
                ["--trace", file] => trace = Some(PathBuf::from(file)),
                ["--change", change] => changes.push((*change).to_owned()),
                _ => {
                    eprintln!("{USAGE}");
                    return ExitCode::from(2);
                }
            }
        }
        let report = match in_a_fresh_thread(move || world::run(seed, &changes, trace.as_deref())) {
            Ok(report) => report,
            Err(CannotRun::Trace(error)) => {
                eprintln!("seed {seed}: the trace file cannot be written: {error}");
                return ExitCode::from(2);
            }
            Err(CannotRun::Change(what)) => {
                eprintln!("{what}");
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
        for violation in &report.violations {
            println!("seed {seed}: {violation}");
        }
        for line in &report.timeline {
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

    /// One run in a process of its own.
    struct Run {
        seed: u64,
        child: Child,
    }

    /// What a run said.
    #[derive(Default)]
    struct Said {
        result: String,
        covered: BTreeMap<String, u64>,
        /// Why it is not good, for people.
        wrong: Option<String>,
    }

    impl Run {
        fn start(seed: u64) -> Run {
            let myself = env::current_exe().expect("this program has a path");
            let child = Command::new(myself)
                .args(["run", &seed.to_string()])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("this program can be started again");
            Run { seed, child }
        }

        fn finish(self) -> Said {
            let output = self.child.wait_with_output().expect("a started program ends");
            let text = String::from_utf8_lossy(&output.stdout);
            let line = |start: &str| {
                text.lines()
                    .find_map(|line| line.strip_prefix(start))
                    .map(str::trim)
            };
            let mut said = Said {
                result: line(RESULT).unwrap_or_default().to_owned(),
                ..Said::default()
            };
            for pair in line(COVERED).unwrap_or_default().split(';') {
                if let Some((what, count)) = pair.rsplit_once('=') {
                    said.covered.insert(what.to_owned(), count.parse().unwrap_or(0));
                }
            }
            if !output.status.success() {
                let errors = String::from_utf8_lossy(&output.stderr);
                let errors: Vec<&str> = errors
                    .lines()
                    .filter(|line| !line.trim().is_empty())
                    .take(12)
                    .collect();
                said.wrong = Some(format!(
                    "{}\n{text}{}\n        repeat it with: make sim-replay SEED={}",
                    output.status,
                    errors.join("\n"),
                    self.seed
                ));
            }
            said
        }
    }

    fn many(how: &str, count: u64, first: u64) -> ExitCode {
        let twice = how == "meta";
        let (mut passed, mut failed, mut simulated) = (0_u64, 0_u64, 0.0_f64);
        let mut covered: BTreeMap<String, u64> = BTreeMap::new();
        let mut waiting: Vec<u64> = (first..first + count).rev().collect();
        while !waiting.is_empty() {
            let runs: Vec<Run> = if twice {
                // Side by side: they must not notice each other.
                let seed = waiting.pop().expect("there is one");
                vec![Run::start(seed), Run::start(seed)]
            } else {
                let next = waiting.len().saturating_sub(AT_ONCE);
                waiting
                    .split_off(next)
                    .into_iter()
                    .rev()
                    .map(Run::start)
                    .collect()
            };
            let seeds: Vec<u64> = runs.iter().map(|run| run.seed).collect();
            let mut all: Vec<Said> = runs.into_iter().map(Run::finish).collect();
            if twice && all[0].result != all[1].result {
                all[0].wrong = Some(format!(
                    "two runs differ:\n        {}\n        {}",
                    all[0].result, all[1].result
                ));
            }
            if twice {
                all.truncate(1);
            }
            for (seed, said) in seeds.into_iter().zip(all) {
                match said.wrong {
                    None => {
                        println!("ok      {}", said.result);
                        passed += 1;
                    }
                    Some(why) => {
                        println!("FAILED  seed {seed}: {why}");
                        failed += 1;
                    }
                }
                simulated += simulated_seconds(&said.result);
                for (what, count) in said.covered {
                    *covered.entry(what).or_default() += count;
                }
                let _ = std::io::stdout().flush();
            }
        }
        for (what, count) in &covered {
            println!("{count:>10}  {what}");
        }
        println!("{:.1} simulated cluster-hours", simulated / 3600.0);
        if count >= ENOUGH_SEEDS {
            let faults = Fault::ALL.iter().map(|fault| fault.name());
            for what in faults
                .chain(MUST_HAPPEN)
                .filter(|what| !covered.contains_key(*what))
            {
                println!("FAILED  in {count} seeds this never happened: {what}");
                failed += 1;
            }
        }
        println!("{passed} passed, {failed} failed");
        if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn simulated_seconds(result: &str) -> f64 {
        let mut words = result.split(' ').skip_while(|word| *word != "simulated");
        words
            .nth(1)
            .and_then(|seconds| seconds.parse().ok())
            .unwrap_or(0.0)
    }
}

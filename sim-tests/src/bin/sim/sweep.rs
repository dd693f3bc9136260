//! Many worlds: each once, or each in two processes that must agree in everything.

use std::{
    collections::BTreeMap,
    io::Write,
    process::ExitCode,
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use sim_tests::plan::Fault;

use crate::process::{AT_ONCE, Run, Said};

/// A sweep of at least so many seeds must have seen everything.
const ENOUGH_SEEDS: u64 = 500;
/// What a sweep must have seen besides every fault.
const MUST_HAPPEN: [&str; 89] = [
    "receive again finds the same",
    "command release: retry",
    "command written",
    "command renew",
    "command depart",
    "command append",
    "command deliver",
    "command ack",
    "command release: extend",
    "command release: dead letter",
    "command tick",
    "command trim",
    "command configure",
    "command copy forward",
    "send stored",
    "send refused",
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
    "buries and acknowledges",
    "consumer forgets",
    "consumer is late",
    "push holds long",
    "client leaves",
    "client dies",
    "client vanishes",
    "new handle acknowledges",
    "new handle buries",
    "new handle hides",
    "old handle",
    "ack several",
    "send several",
    "push holds too long",
    "sent again within the window",
    "sent again after the window",
    "push rests",
    "handle invented",
    "assignment",
    "messages passed over",
    "command seek",
    "seek done",
    "group paused",
    "acknowledged while paused",
    "pull done",
    "query offset done",
    "get offset done",
    "update offset done",
    "update offset refused",
    "send several given up",
    "command fire",
    "command recall",
    "command retime",
    "recalled",
    "recalled too late",
    "delayed message sent again",
    "delayed message has another date",
    "command redrive",
    "command unpark",
    "dead letter given back",
    "parked message skipped",
    "parked message released",
    "late decision",
    "command commit",
    "command roll back",
    "command check back",
    "command give up",
    "half message sent again",
    "transaction committed",
    "transaction rolled back",
    "transaction ended otherwise before",
    "transaction asked about",
    "transaction ended by hand",
    "message with a priority came",
    "message with a priority came again",
    "forgotten for its age",
    "forgotten for room",
    "segment recycled",
    "snapshot to one that was behind",
    "snapshot to a new replica",
    "excused ERROR: stored data",
    "excused ERROR: disk",
    "excused ERROR: state engine",
];

/// The sums of a sweep.
#[derive(Default)]
struct Sums {
    passed: u64,
    failed: u64,
    simulated: f64,
    covered: BTreeMap<String, u64>,
}

impl Sums {
    fn take(&mut self, seed: u64, said: Said) {
        match said.wrong {
            None => {
                println!("ok      {}", said.result);
                self.passed += 1;
            }
            Some(why) => {
                println!("FAILED  seed {seed}: {why}");
                self.failed += 1;
            }
        }
        self.simulated += simulated_seconds(&said.result);
        for (what, count) in said.covered {
            *self.covered.entry(what).or_default() += count;
        }
        let _ = std::io::stdout().flush();
    }

    /// Runs seeds, some at the same time: the next begins when any is done, and they are reported in order.
    fn run(&mut self, seeds: impl Iterator<Item = u64> + Send) {
        let seeds = Mutex::new(seeds.enumerate());
        let next = || seeds.lock().unwrap_or_else(PoisonError::into_inner).next();
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                let tell = tell.clone();
                scope.spawn(move || {
                    while let Some((place, seed)) = next() {
                        let said = Run::start(seed).finish();
                        tell.send((place, (seed, said)))
                            .expect("everybody is listened to");
                    }
                });
            }
            drop(tell);
            let (mut early, mut due) = (BTreeMap::new(), 0);
            for (place, run) in told {
                early.insert(place, run);
                while let Some((seed, said)) = early.remove(&due) {
                    self.take(seed, said);
                    due += 1;
                }
            }
        });
    }

    fn end(mut self, count: u64) -> ExitCode {
        for (what, count) in &self.covered {
            println!("{count:>10}  {what}");
        }
        println!("{:.1} simulated cluster-hours", self.simulated / 3600.0);
        if count >= ENOUGH_SEEDS {
            let faults = Fault::ALL.iter().map(|fault| fault.name());
            for what in faults
                .chain(MUST_HAPPEN)
                .filter(|what| !self.covered.contains_key(*what))
            {
                println!("FAILED  in {count} seeds this never happened: {what}");
                self.failed += 1;
            }
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Runs seeds from `first` on, as `how` says: "sweep" or "meta".
pub(crate) fn many(how: &str, count: u64, first: u64) -> ExitCode {
    let mut sums = Sums::default();
    let seeds = first..first + count;
    if how == "meta" {
        seeds.for_each(|seed| sums.take(seed, twice(seed)));
    } else {
        println!("seeds {first} to {}", first + count - 1);
        sums.run(seeds);
    }
    sums.end(count)
}

/// Runs the seeds of a file: a number at the beginning of a line, then what it once found.
pub(crate) fn kept(file: &str) -> ExitCode {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{file}: {error}");
            return ExitCode::from(2);
        }
    };
    let seeds: Vec<u64> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    let mut sums = Sums::default();
    let count = seeds.len() as u64;
    sums.run(seeds.into_iter());
    // Few worlds, chosen: they need not cover everything.
    sums.end(count.min(ENOUGH_SEEDS - 1))
}

/// Side by side: they must not notice each other.
fn twice(seed: u64) -> Said {
    let (one, other) = (Run::start(seed), Run::start(seed));
    let (mut said, other) = (one.finish(), other.finish());
    if said.result != other.result {
        said.wrong = Some(format!(
            "two runs differ:\n        {}\n        {}",
            said.result, other.result
        ));
    }
    said
}

fn simulated_seconds(result: &str) -> f64 {
    let mut words = result.split(' ').skip_while(|word| *word != "simulated");
    words
        .nth(1)
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(0.0)
}

//! Runs simulated clusters.
//!
//! `sim run SEED [--trace FILE] [--plant BUG] [--change NAME=VALUE]..` runs one world and prints what was drawn, what happened, and the hash of
//! everything. `sim meta N [FIRST]` runs seeds in two processes each, and demands equal hashes: the simulator proves
//! itself before it is believed. `sim sweep N [FIRST]` runs seeds once each and sums up what they covered.
//! `sim plant [MAX_SEEDS] [BUG..]` counts how many seeds it takes to find each planted bug. `sim shrink SEED [--plant BUG]`
//! looks for the simplest form of a world that fails. `sim seeds FILE` runs the seeds that are kept. `sim speed` measures.

/// A run is one thread that allocates all the time.
#[cfg(madsim)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(madsim)]
mod planted;
#[cfg(madsim)]
mod process;
#[cfg(madsim)]
mod run;
#[cfg(madsim)]
mod shrink;
#[cfg(madsim)]
mod speed;
#[cfg(madsim)]
mod sweep;

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    command(&words).unwrap_or_else(|| {
        eprintln!(
            "usage: sim run SEED [--trace FILE] [--plant BUG] [--change NAME=VALUE].. | sim meta N [FIRST] | \
             sim sweep N [FIRST] | sim plant [MAX_SEEDS] [BUG..] | sim shrink SEED [--plant BUG] | \
             sim seeds FILE | sim speed"
        );
        std::process::ExitCode::from(2)
    })
}

/// Does what the words say; nothing if they say nothing.
#[cfg(madsim)]
fn command(words: &[&str]) -> Option<std::process::ExitCode> {
    let number = |text: &str| text.parse::<u64>().ok();
    match words {
        ["run", seed, options @ ..] => run::run(number(seed)?, options),
        [how @ ("meta" | "sweep"), count] => Some(sweep::many(how, number(count)?, 1)),
        [how @ ("meta" | "sweep"), count, first] => Some(sweep::many(how, number(count)?, number(first)?)),
        ["seeds", file] => Some(sweep::kept(file)),
        ["speed"] => Some(speed::speed(1)),
        ["shrink", seed, options @ ..] => Some(shrink::shrink(number(seed)?, options)),
        ["plant", most, names @ ..] if number(most).is_some() => planted::all(number(most)?, names),
        ["plant", names @ ..] => planted::all(planted::MAX_SEEDS, names),
        _ => None,
    }
}

#[cfg(not(madsim))]
fn main() {
    eprintln!("the simulator is built with RUSTFLAGS=\"--cfg madsim\": run `make sim-smoke`");
    std::process::exit(2);
}

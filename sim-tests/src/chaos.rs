//! Chaos: three real nodes, real clients, real faults, and the oracles of the simulator.
//!
//! The simulator owns the clock, the network and the disk, and so can repeat what it finds; what it cannot show is whether
//! RocksDB, the kernel, sockets and gRPC do what it assumes of them. Here they are all real, and nothing can be repeated: what
//! is found here is to be understood from the history and the logs, and then to be found again in the simulator.
//!
//! | module | what |
//! |---|---|
//! | `options`, `run`, `report` | the command line, a run from first to last, the verdict |
//! | `node`, `cluster`, `http` | processes, and what their administration says |
//! | `network`, `disks` | the links between nodes, and their disks, so that both can be bad |
//! | `faults`, `gaps` | what goes wrong, and for how long nothing could be written |
//! | `client`, `workload` | a client of the service over gRPC, and what clients do |
//! | `sdk` | clients of a real SDK, whose programs say what they do |
//! | `book` | the history, and what else is written down |
//! | `cleanup`, `shell`, `random` | what must not be left behind, other programs, chance |

use std::{panic, process::ExitCode};

use clap::Parser;
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

mod book;
mod cleanup;
mod client;
mod cluster;
mod disks;
mod faults;
mod gaps;
mod http;
mod network;
mod node;
mod options;
mod random;
mod report;
mod run;
mod sdk;
mod shell;
mod workload;

use cleanup::Cleanup;
use options::Options;
use report::Verdict;

/// What a program says that was ended by a signal.
const INTERRUPTED: u8 = 130;
/// A run that could not be judged has failed once.
const NO_VERDICT: Verdict = Verdict { passed: 0, failed: 1 };

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let options = Options::parse();
    let cleanup = Cleanup::default();
    clean_up_after_a_panic(&cleanup);
    let runtime = match Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        tokio::select! {
            biased;
            name = interruption() => {
                println!("chaos: {name}: cleaning up");
                Err(ExitCode::from(INTERRUPTED))
            }
            verdict = run::run(&options, &cleanup) => Ok(verdict),
        }
    });
    // Clients first: nobody is to see nodes that are being ended.
    runtime.shutdown_background();
    cleanup.run();
    let verdict = match code {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(why)) => {
            println!("FAILED: {why}");
            NO_VERDICT
        }
        Err(interrupted) => return interrupted,
    };
    println!("{} passed, {} failed", verdict.passed, verdict.failed);
    if verdict.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A panic anywhere, in a task too, ends the run: what it would have seen is not seen any more.
fn clean_up_after_a_panic(cleanup: &Cleanup) {
    let (usual, cleanup) = (panic::take_hook(), cleanup.clone());
    panic::set_hook(Box::new(move |info| {
        usual(info);
        cleanup.run();
        println!("{} passed, {} failed", NO_VERDICT.passed, NO_VERDICT.failed);
        std::process::exit(1);
    }));
}

/// Waits for somebody who wants the run to end.
async fn interruption() -> &'static str {
    let listen = |kind| signal(kind).expect("signals can be listened for");
    let (mut interrupt, mut terminate, mut hang_up) = (
        listen(SignalKind::interrupt()),
        listen(SignalKind::terminate()),
        listen(SignalKind::hangup()),
    );
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        _ = hang_up.recv() => "SIGHUP",
    }
}

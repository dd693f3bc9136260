//! `flotilla serve`: puts a node together from its configuration, runs it, and ends it well.
//!
//! A signal asks for a graceful end: leaderships are handed over, then the sockets close. A second
//! one ends the process at once. A node whose stored data is damaged beyond repair sets its data directory
//! aside, once the other nodes can do without it, and starts again, empty, to be rebuilt by them.

mod assemble;
mod condemned;
pub(crate) mod options;
mod spared;

use std::{io, process::ExitCode, time::Duration};

use raft_store::StoreError;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::{logging, serve_args::ServeArgs};
use crate::{
    config::Config,
    node::{NodeError, StopReason},
};
use assemble::{Assembly, StartError};

/// Handing leaderships over takes about an election; more means that the others are gone.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(15);

const USAGE: u8 = 2;

/// Runs a node until it is told to stop.
pub(super) fn main(args: ServeArgs) -> ExitCode {
    if let Err(reason) = logging::init() {
        eprintln!("flotilla: {reason}");
        return ExitCode::from(USAGE);
    }
    let (config, warnings) = match args.load() {
        Ok(loaded) => loaded,
        Err(reason) => {
            eprintln!("flotilla: {reason}");
            return ExitCode::from(USAGE);
        }
    };
    for warning in warnings {
        warn!("{warning}");
    }
    abort_on_panic();
    raise_file_limit();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = config.worker_threads {
        builder.worker_threads(threads as usize);
    }
    let runtime = builder
        .enable_all()
        .build()
        .expect("the operating system gives us threads");
    let ended = runtime.block_on(run(&config));
    // Nothing that still runs may touch the data directory after this.
    runtime.shutdown_timeout(Duration::from_secs(5));
    match ended {
        Ok(StopReason::Shutdown) => ExitCode::SUCCESS,
        Ok(StopReason::Condemned(reason)) => condemned::start_again(&config, &reason, false),
        Ok(StopReason::GivenUp(reason)) => condemned::start_again(&config, &reason, true),
        Ok(StopReason::Refused(reason)) => {
            error!(reason, data_dir = %config.data_dir.display(), "the node stopped: its data directory does not belong here");
            ExitCode::FAILURE
        }
        Ok(StopReason::Newer(reason)) => {
            error!(reason, data_dir = %config.data_dir.display(), "the node stopped and touched nothing: its data is of a newer release");
            ExitCode::FAILURE
        }
        Ok(StopReason::Fatal(reason)) => {
            error!(reason, "the node stopped");
            ExitCode::FAILURE
        }
        Err(reason) if is_damage(&reason) => condemned::start_again(&config, &reason.to_string(), false),
        Err(reason) => {
            error!(%reason, "the node does not start");
            ExitCode::FAILURE
        }
    }
}

/// What is stored cannot be read back, as opposed to a disk that fails or a configuration that does not fit.
fn is_damage(error: &StartError) -> bool {
    match error {
        StartError::Node(NodeError::Store(StoreError::Corrupt(_))) => true,
        StartError::Node(NodeError::Identity(error)) => error.kind() == io::ErrorKind::InvalidData,
        _ => false,
    }
}

async fn run(config: &Config) -> Result<StopReason, StartError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    // Opening may take long, and until it is over the node has promised nothing in this life: a signal ends it as a kill would.
    let assembly = tokio::select! {
        biased;
        _ = interrupt.recv() => return Ok(StopReason::Shutdown),
        _ = terminate.recv() => return Ok(StopReason::Shutdown),
        started = Assembly::start(config) => started?,
    };
    let reason = tokio::select! {
        biased;
        reason = assembly.node.wait_stopped() => reason,
        _ = interrupt.recv() => StopReason::Shutdown,
        _ = terminate.recv() => StopReason::Shutdown,
    };
    if reason != StopReason::Shutdown {
        // Whatever it could still answer would come from a damaged or failing disk.
        return Ok(reason);
    }
    info!("stopping: handing leaderships over; a second signal ends the process at once");
    let ending = async {
        let handed_over = tokio::time::timeout(HAND_OVER_TIMEOUT, assembly.node.shutdown()).await;
        if handed_over.is_err() {
            warn!("leaderships could not be handed over in time");
        }
        assembly.close().await;
    };
    tokio::select! {
        biased;
        () = ending => {}
        _ = interrupt.recv() => std::process::exit(130),
        _ = terminate.recv() => std::process::exit(143),
    }
    info!("stopped");
    Ok(reason)
}

/// A broken invariant ends the process, in every build: a node that lost one of its tasks would go
/// on half alive.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Thousands of connections need more file descriptors than most systems give by default.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        )
    {
        warn!(%error, ?current, "the number of open files could not be raised: connections may be refused");
    }
}

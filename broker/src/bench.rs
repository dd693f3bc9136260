//! `flotilla bench`: load through the public gRPC interface, measured, calibrated and verified.
//!
//! It is a client like any SDK and knows nothing of the broker's inside: it asks for routes,
//! sends to the endpoints they name, retries with the same message id, receives and acknowledges.
//! Every message says who sent it and as which, so that a consumer group can prove afterwards
//! that nothing acknowledged was lost, repeated, damaged or invented. Latencies count from the
//! moment a message was *due*, not from the moment the busy client got round to it.
//!
//! | file | holds |
//! |---|---|
//! | `options` | the command line, checked |
//! | `session` | one run from first to last step |
//! | `client` | connections, routes, failures |
//! | `produce`, `consume` | the two kinds of load |
//! | `schedule` | when messages are due |
//! | `body`, `ledger`, `tally` | what a message says, and what must have become of it |
//! | `recorder` | histograms, gaps, seconds |
//! | `noop`, `calibrate` | what the machine can do at best |
//! | `nodes` | what the nodes say about themselves, and /proc |
//! | `report`, `progress` | what the user sees |
#![expect(
    clippy::disallowed_methods,
    reason = "a load generator measures real time, against real processes; the simulator does not reach it"
)]

use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

mod body;
mod calibrate;
mod client;
mod consume;
mod ledger;
mod limits;
mod nodes;
mod noop;
mod options;
mod produce;
mod progress;
mod recorder;
mod report;
mod schedule;
mod session;
mod tally;
#[cfg(test)]
mod tests;

pub use options::BenchArgs;

/// Why a run could not take place. A run that took place but failed its verification is not an error:
/// it has a report, and exit code 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The options do not make a run.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers, or nobody knows the topic.
    #[error("{what} at {address} cannot be used: {cause}; is the cluster running, and is this its address?")]
    Unreachable {
        /// What was looked for.
        what: String,
        /// Where.
        address: String,
        /// What came instead.
        cause: String,
    },
    /// A node answered, and said no.
    #[error("{what} was refused: {answer}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The node's words.
        answer: String,
    },
    /// This machine failed.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        cause: std::io::Error,
    },
}

impl BenchError {
    /// The process's exit code: 1 refused, 2 wrong use, 3 unreachable or the machine's fault.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } => 1,
            Self::Usage(_) => 2,
            Self::Unreachable { .. } | Self::Io { .. } => 3,
        }
    }

    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |cause| Self::Io { what, cause }
    }
}

/// Runs one benchmark. The exit code is 0 if everything was verified, 1 if messages were lost or
/// came out of nowhere, or if nothing could be sent or received at all.
///
/// # Errors
/// Whatever kept the run from taking place; see [`BenchError`].
pub async fn run(args: BenchArgs) -> Result<ExitCode, BenchError> {
    match args.command {
        options::Command::NoopServer(options) => noop::serve_as_child(&options).await,
        command => {
            let plan = options::Plan::new(command)?;
            let report = session::run(&plan).await?;
            print!("{}", report.for_people());
            if let Some(path) = &plan.target.json {
                std::fs::write(path, report.as_json()).map_err(BenchError::io(format!(
                    "writing the report to {}",
                    path.display()
                )))?;
            }
            Ok(if report.passed {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(1)
            })
        }
    }
}

/// Figures survive the panic of the task that was changing them: it is reported anyway.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

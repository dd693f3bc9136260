//! The command line: one binary, `flotilla`, with a subcommand per task.
//!
//! Exit codes: 0 done, 1 refused or not found, 2 wrong usage or configuration, 3 unreachable.

mod client;
mod cluster;
mod dead_letter;
mod delay;
mod group;
mod logging;
mod output;
mod parked;
pub(crate) mod serve;
mod serve_args;
mod topic;
mod transaction;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use client::{AdminClient, CliError};

#[derive(Parser)]
#[command(
    name = "flotilla",
    version,
    about = "A message broker cluster for the RocketMQ 5 SDKs"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node; without any flag a cluster of one, ready for clients on localhost:8081
    Serve(serve_args::ServeArgs),
    /// Look at the cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Create, list, describe and delete topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Create, list, describe and delete consumer groups
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// List, recall and re-time messages that wait for their date
    #[command(subcommand)]
    Delay(delay::DelayCommand),
    /// List messages that could not be consumed, and give them back
    #[command(subcommand)]
    DeadLetter(dead_letter::DeadLetterCommand),
    /// List and end transactions that nobody has ended
    #[command(subcommand)]
    Transaction(transaction::TransactionCommand),
    /// Measure a cluster from the outside, and verify that it loses nothing
    Bench(crate::bench::BenchArgs),
}

/// Names the node that is asked when no flag does. Read here and not by clap, which takes an empty one for an address.
const HTTP_VARIABLE: &str = "FLOTILLA_HTTP";
/// A node without configuration on this machine.
const DEFAULT_HTTP: &str = "127.0.0.1:8082";

/// Which node is asked, and how the answer is shown.
#[derive(clap::Args)]
struct Target {
    /// HTTP address of any node of the cluster
    ///
    /// [env: FLOTILLA_HTTP] [default: 127.0.0.1:8082]
    #[arg(long = "http-addr", visible_alias = "http", value_name = "HOST:PORT")]
    http: Option<String>,
    /// Print JSON, as the HTTP API sends it
    #[arg(long)]
    json: bool,
}

impl Target {
    fn client(&self) -> AdminClient {
        self.client_in(std::env::var(HTTP_VARIABLE).ok())
    }

    /// The flag, else the environment variable unless it is empty, else the default.
    fn client_in(&self, variable: Option<String>) -> AdminClient {
        let set = variable.filter(|address| !address.trim().is_empty());
        match (&self.http, set) {
            (Some(address), _) => AdminClient::new(address.clone(), "flag --http-addr"),
            (None, Some(address)) => AdminClient::new(address, "environment variable FLOTILLA_HTTP"),
            (None, None) => AdminClient::new(DEFAULT_HTTP.to_owned(), "the default"),
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve::main(args),
        Command::Cluster(command) => ask(cluster::run(command)),
        Command::Topic(command) => ask(topic::run(command)),
        Command::Group(command) => ask(group::run(command)),
        Command::Delay(command) => ask(delay::run(command)),
        Command::DeadLetter(command) => ask(dead_letter::run(command)),
        Command::Transaction(command) => ask(transaction::run(command)),
        Command::Bench(args) => bench(args),
    }
}

fn ask(task: impl Future<Output = Result<(), CliError>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime
        .expect("the operating system gives us an event queue")
        .block_on(task)
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flotilla: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn bench(args: crate::bench::BenchArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime
        .expect("the operating system gives us an event queue")
        .block_on(crate::bench::run(args))
    {
        Ok(code) => code,
        Err(error) => {
            eprintln!("flotilla: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(test)]
mod tests;

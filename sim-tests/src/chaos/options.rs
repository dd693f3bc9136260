//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use super::faults::Fault;

/// Which network the nodes get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Choice {
    /// Namespaces where they are allowed, otherwise proxies.
    Auto,
    /// Network namespaces, or nothing.
    Namespaces,
    /// TCP proxies.
    Proxies,
}

/// Three real nodes under real faults, judged by the simulator's oracles. The last line says `N passed, N failed`, where
/// promises are counted; the exit code is 0 if all of them were kept.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
pub(super) struct Options {
    /// How long there are faults
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    pub(super) seconds: u64,
    /// Chooses faults, their order and their length; drawn when not given
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// The program that is tested
    #[arg(long, default_value = "target/release/flotilla")]
    pub(super) flotilla: PathBuf,
    /// How the nodes are connected
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    pub(super) network: Choice,
    /// Only these faults, by commas; all that are possible here when not given
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(super) faults: Vec<Fault>,
    /// A Python that has the SDK; without it, there are no clients of an SDK
    #[arg(long, default_value = "target/sdk/python-venv/bin/python")]
    pub(super) sdk: PathBuf,
    /// Where the nodes' logs and the history are kept afterwards
    #[arg(long, default_value = "target/chaos")]
    pub(super) out: PathBuf,
}

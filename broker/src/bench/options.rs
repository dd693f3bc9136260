//! The command line of `flotilla bench`, and its check.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::BenchError;
use super::client::Connecting;
use super::limits::{
    MAX_CONNECTIONS, MAX_DURATION, MAX_GROUPS, MAX_IN_FLIGHT, MAX_PAYLOAD, MAX_TOPICS, MIN_PAYLOAD,
};
use super::schedule::Arrivals;

/// Arguments of `flotilla bench`.
#[derive(Clone, Debug, Args)]
#[command(about = "Measure a cluster through its public interface, and verify every message")]
pub struct BenchArgs {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum Command {
    /// Send, then read everything back and verify it
    Produce(Box<Load>),
    /// Receive and acknowledge what is there
    Consume(Box<Load>),
    /// Send and receive at the same time, and verify everything
    Both(Box<Load>),
    /// Answer as fast as this machine can, and store nothing
    #[command(hide = true)]
    NoopServer(NoopArgs),
}

#[derive(Clone, Debug, Args)]
pub(super) struct NoopArgs {
    /// Keep messages in memory for consumers
    #[arg(long)]
    pub keep: bool,
    #[arg(long, default_value_t = 8)]
    pub queues: u32,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Load {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    produce: Produce,
    #[command(flatten)]
    consume: Consume,
}

/// Where the load goes, and how long.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Target")]
pub(super) struct Target {
    /// Nodes to ask for routes, separated by semicolons
    #[arg(
        long,
        value_name = "HOST:PORT[;HOST:PORT..]",
        default_value = "127.0.0.1:8081"
    )]
    pub endpoint: String,
    /// Topic; with --topics more than one, the beginning of their names
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// Spread over that many topics, <TOPIC>-0 and so on
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub topics: u32,
    /// Create each topic with that many queues (needs --http)
    #[arg(long, value_name = "N")]
    pub queues: Option<u32>,
    /// HTTP interface of a node, or of several separated by semicolons: creates what is missing and
    /// reads what the nodes say about their disks and processors; one is asked for the others
    #[arg(long, value_name = "HOST:PORT[;HOST:PORT..]")]
    pub http: Option<String>,
    /// Server processes on this machine, for their processor time and disk traffic from /proc
    /// (otherwise the nodes' own figures are used, with --http)
    #[arg(long, value_name = "PID,..", value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// Use TLS, accepting any certificate as most SDKs do
    #[arg(long)]
    pub tls: bool,
    /// Connections to each node
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub connections: usize,
    /// Time limit of one request
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    pub timeout: Duration,
    /// Length of the measured window
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub duration: Duration,
    /// Load before the measured window; verified, not measured
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub warmup: Duration,
    /// Write the report there as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Do not measure what the machine can do at best
    #[arg(long)]
    pub no_calibrate: bool,
    /// Length of each of the two calibration runs
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub calibrate_for: Duration,
    /// Folder for the sync loop's file: on the disk that the nodes use
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub calibrate_dir: PathBuf,
}

/// How messages are sent.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sending")]
pub(super) struct Produce {
    /// Messages a second (open loop), or as fast as the answers come (closed loop)
    #[arg(long, value_name = "R|max", default_value = "max", value_parser = rate)]
    pub rate: Rate,
    /// How the messages of an open loop are spaced
    #[arg(long, value_name = "HOW", default_value = "constant")]
    pub arrivals: Arrivals,
    /// Sends open at once, over all connections
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub in_flight: usize,
    /// Size of a message body
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    pub payload: usize,
    /// Use that many message groups and verify their order (FIFO topics); one open send per group
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub message_groups: u32,
    /// Where a failed send is tried again, with the same message id
    #[arg(long, value_name = "WHERE", default_value = "same")]
    pub retry: Retry,
    /// How long one message is tried before its end counts as unknown
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub give_up: Duration,
}

/// How messages are received.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Receiving")]
pub(super) struct Consume {
    /// Consumer group; by default one of the run's own
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Consume as that many consumer groups, <GROUP>-0 and so on (only `consume`)
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub groups: u32,
    /// Open receives per consumer group; by default one per queue, at most 256
    #[arg(long, value_name = "N")]
    pub consumers: Option<usize>,
    /// Where consumer groups that are created begin (needs --http)
    #[arg(long, value_name = "WHERE", default_value = "first")]
    pub start_at: StartAt,
    /// Each consumer begins a receive at most so often, as slow consumers do (only `consume`)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub receive_every: Option<Duration>,
    /// How received messages are acknowledged
    #[arg(long, value_name = "HOW", default_value = "batch")]
    pub ack: Ack,
    /// How long a received message stays hidden from other consumers
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    pub invisible: Duration,
    /// Verification ends when nothing has arrived for that long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub patience: Duration,
    /// End early when nothing was received for five seconds (only `consume`)
    #[arg(long)]
    pub until_empty: bool,
}

/// How fast to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rate {
    Max,
    PerSecond(f64),
}

/// Where a failed send is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Retry {
    /// In the same queue, wherever it is now
    Same,
    /// In the next queue, as the SDKs do
    Next,
}

/// Where a new consumer group begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum StartAt {
    /// At the oldest message
    First,
    /// At messages sent from then on (only `consume`)
    Last,
}

impl StartAt {
    /// As the HTTP interface calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
        }
    }
}

/// How received messages are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Ack {
    /// All messages of a receive in one request
    Batch,
    /// Each message in a request of its own, as the SDKs do
    Each,
    /// Not at all (only `consume`)
    None,
}

/// What kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Produce,
    Consume,
    Both,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Both => "both",
        }
    }
}

/// Options that make a run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub mode: Mode,
    pub target: Target,
    pub produce: Produce,
    pub consume: Consume,
    pub access: Vec<String>,
    pub http: Vec<String>,
}

impl Plan {
    /// Checks the options.
    ///
    /// # Errors
    /// `Usage`, with what to write instead.
    pub(super) fn new(command: Command) -> Result<Self, BenchError> {
        let (mode, load) = match command {
            Command::Produce(load) => (Mode::Produce, load),
            Command::Consume(load) => (Mode::Consume, load),
            Command::Both(load) => (Mode::Both, load),
            Command::NoopServer(_) => return Err(usage("the no-op server is not a run")),
        };
        let Load {
            target,
            produce,
            consume,
        } = *load;
        let access = addresses("--endpoint", &target.endpoint)?;
        let http = target
            .http
            .as_deref()
            .map_or(Ok(Vec::new()), |http| addresses("--http", http))?;
        check_target(&target, &http)?;
        check_load(mode, &produce, &consume)?;
        Ok(Self {
            mode,
            target,
            produce,
            consume,
            access,
            http,
        })
    }

    /// The names of all topics.
    pub(super) fn topics(&self) -> Vec<String> {
        match self.target.topics {
            1 => vec![self.target.topic.clone()],
            count => (0..count).map(|n| format!("{}-{n}", self.target.topic)).collect(),
        }
    }

    /// The names of all consumer groups; `run` names the group of a run without a name of its own.
    pub(super) fn groups(&self, run: super::body::RunId) -> Vec<String> {
        let name = self
            .consume
            .group
            .clone()
            .unwrap_or_else(|| format!("bench-{run}"));
        match self.consume.groups {
            1 => vec![name],
            count => (0..count).map(|n| format!("{name}-{n}")).collect(),
        }
    }

    /// Independent producers, each with one open send.
    pub(super) fn producers(&self) -> u32 {
        let in_flight = u32::try_from(self.produce.in_flight).expect("bounded by MAX_IN_FLIGHT");
        match self.produce.message_groups {
            0 => in_flight,
            groups => in_flight.min(groups),
        }
    }

    pub(super) fn connecting(&self) -> Connecting {
        Connecting {
            access: self.access.clone(),
            tls: self.target.tls,
            connections: self.target.connections,
            timeout: self.target.timeout,
        }
    }

    /// The same load as fast as possible against the no-op server, which knows no TLS.
    pub(super) fn against_noop(&self, address: String, mode: Mode) -> Self {
        let mut plan = self.clone();
        plan.mode = mode;
        plan.access = vec![address];
        plan.http = Vec::new();
        plan.target.pids = Vec::new();
        plan.target.tls = false;
        plan.target.topics = 1;
        plan.target.duration = self.target.calibrate_for;
        // What was filled in is soon consumed: every batch counts.
        plan.target.warmup = match mode {
            Mode::Consume => Duration::ZERO,
            Mode::Produce | Mode::Both => self.target.calibrate_for / 5,
        };
        plan.target.no_calibrate = true;
        plan.produce.rate = Rate::Max;
        plan.consume.groups = 1;
        plan.consume.until_empty = false;
        plan.consume.receive_every = None;
        plan.consume.start_at = StartAt::First;
        plan.consume.patience = Duration::from_secs(5);
        plan
    }
}

fn usage(why: impl Into<String>) -> BenchError {
    BenchError::Usage(why.into())
}

fn check_target(target: &Target, http: &[String]) -> Result<(), BenchError> {
    let within = |name: &str, value: u64, from: u64, to: u64| {
        let message = format!("{name} {value}: it has to be between {from} and {to}");
        (from..=to)
            .contains(&value)
            .then_some(())
            .ok_or_else(|| usage(message))
    };
    within("--topics", target.topics.into(), 1, MAX_TOPICS.into())?;
    within(
        "--connections",
        target.connections as u64,
        1,
        MAX_CONNECTIONS as u64,
    )?;
    if target.queues.is_some() && http.is_empty() {
        return Err(usage(
            "--queues needs --http: topics are created through the HTTP interface of a node",
        ));
    }
    for (name, time) in [("--duration", target.duration), ("--timeout", target.timeout)] {
        if time.is_zero() || time > MAX_DURATION {
            return Err(usage(format!(
                "{name} has to be longer than nothing and at most 24h"
            )));
        }
    }
    if !target.no_calibrate && target.calibrate_for.is_zero() {
        return Err(usage("--calibrate-for 0s measures nothing; write --no-calibrate"));
    }
    Ok(())
}

fn check_load(mode: Mode, produce: &Produce, consume: &Consume) -> Result<(), BenchError> {
    if !(1..=MAX_IN_FLIGHT).contains(&produce.in_flight) {
        return Err(usage(format!(
            "--in-flight has to be between 1 and {MAX_IN_FLIGHT}"
        )));
    }
    if !(MIN_PAYLOAD..=MAX_PAYLOAD).contains(&produce.payload) {
        return Err(usage(format!(
            "--payload has to be between {MIN_PAYLOAD} (what a message says about itself) and {MAX_PAYLOAD} bytes"
        )));
    }
    if !(1..=MAX_GROUPS).contains(&consume.groups) {
        return Err(usage(format!("--groups has to be between 1 and {MAX_GROUPS}")));
    }
    if consume.consumers == Some(0) {
        return Err(usage("--consumers 0 receives nothing"));
    }
    let only_consume = consume.groups != 1
        || consume.ack == Ack::None
        || consume.until_empty
        || consume.receive_every.is_some()
        || consume.start_at == StartAt::Last;
    if mode != Mode::Consume && only_consume {
        return Err(usage(format!(
            "--groups, --ack none, --until-empty, --receive-every and --start-at last go with `consume`: \
             `{}` verifies with one consumer group, from the beginning and without pauses",
            mode.name()
        )));
    }
    Ok(())
}

fn addresses(option: &str, text: &str) -> Result<Vec<String>, BenchError> {
    let split = text
        .split([';', ','])
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let checked: Result<Vec<String>, BenchError> = split.map(|part| address(option, part)).collect();
    checked.and_then(|all| {
        if all.is_empty() {
            Err(usage(format!("{option} names no address; write HOST:PORT")))
        } else {
            Ok(all)
        }
    })
}

fn address(option: &str, text: &str) -> Result<String, BenchError> {
    let bare = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .unwrap_or(text);
    let bare = bare.trim_end_matches('/');
    let good = bare.rsplit_once(':').is_some_and(|(host, port)| {
        let whole = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        !host.is_empty() && whole && host.chars().all(plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if good {
        Ok(bare.to_owned())
    } else {
        Err(usage(format!("{option} {text}: write HOST:PORT")))
    }
}

/// `250ms`, `60s`, `5m` or `1h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text} is not a time; write 250ms, 60s, 5m or 1h")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text} is not a time; write for example 60s"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|cause| cause.to_string())
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Rate::PerSecond(rate)),
        _ => Err(format!("{text} is not a rate; write messages a second, or max")),
    }
}

#[cfg(test)]
mod tests;

//! `flotilla group ...`: consumer groups.

use super::{
    Target,
    client::{CliError, segment},
    output, parked,
};
use crate::{
    config::Period,
    views::{BackoffView, GroupDetail, GroupSpec, GroupView, Lag, SeekReport, SeekSpec, SeekTo, StartAt},
};

#[derive(clap::Subcommand)]
pub(super) enum GroupCommand {
    /// Create a consumer group
    Create(Box<CreateArgs>),
    /// List all consumer groups
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Show a consumer group and its lag per queue
    Describe {
        /// Name of the consumer group
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Let a consumer group read a topic again from a message, or pass over messages
    Seek(Box<SeekArgs>),
    /// Deliver nothing more to a consumer group until it is resumed
    Pause {
        /// Name of the consumer group
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Deliver to a paused consumer group again
    Resume {
        /// Name of the consumer group
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// List the messages at which message groups stopped (see `on-poison`)
    Parked {
        /// Name of the consumer group
        name: String,
        /// Stop after so many
        #[arg(long, value_name = "N", default_value = "1000")]
        limit: usize,
        #[command(flatten)]
        target: Target,
    },
    /// Let message groups go on without the messages at which they stopped, which are dead letters from then on
    Skip(parked::DecideArgs),
    /// Deliver the messages at which message groups stopped again, with all their attempts
    Release(parked::DecideArgs),
    /// Change what becomes of a message of a message group whose attempts are used up
    OnPoison {
        /// Name of the consumer group
        name: String,
        /// From now on; what is parked stays so
        #[arg(value_enum)]
        policy: parked::Policy,
        #[command(flatten)]
        target: Target,
    },
    /// Delete a consumer group and what it has read; its messages stay
    Delete {
        /// Name of the consumer group
        name: String,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("place").required(true))]
pub(super) struct SeekArgs {
    /// Name of the consumer group
    name: String,
    /// The topic that it reads
    #[arg(long)]
    topic: String,
    /// Only this queue of it
    #[arg(long, value_name = "N")]
    queue: Option<u32>,
    /// To the oldest message that is kept
    #[arg(long, group = "place")]
    to_first: bool,
    /// To what is stored from now on
    #[arg(long, group = "place")]
    to_last: bool,
    /// To an offset, or the nearest that is kept
    #[arg(long, group = "place", value_name = "OFFSET")]
    to_offset: Option<u64>,
    /// To the first message stored then or later: 2026-11-30T10:00:00Z, or milliseconds since 1970
    #[arg(long, group = "place", value_name = "TIME", value_parser = output::parse_time)]
    to_time: Option<u64>,
    /// Show where it would go on from, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Asks again for a seek of which not every queue was known to be done; it printed this number
    #[arg(long)]
    id: Option<u64>,
    #[command(flatten)]
    target: Target,
}

impl SeekArgs {
    fn spec(&self) -> SeekSpec {
        let to = match (self.to_offset, self.to_time) {
            (Some(offset), _) => SeekTo::Offset(offset),
            (None, Some(at_ms)) => SeekTo::AtMs(at_ms),
            (None, None) if self.to_last => SeekTo::Last,
            (None, None) => SeekTo::First,
        };
        SeekSpec {
            topic: self.topic.clone(),
            queue: self.queue,
            to,
            dry_run: self.dry_run,
            id: self.id,
        }
    }
}

/// Fails if it is not known of every queue that it was done.
async fn seek(args: &SeekArgs) -> Result<(), CliError> {
    let path = format!("{}/seek", path(&args.name));
    let report: SeekReport = args.target.client().post(&path, &args.spec()).await?;
    if args.target.json {
        output::json(&report);
    } else {
        let number = |at: Option<u64>| at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        let rows = report.queues.iter().map(|queue| {
            let problem = queue.problem.clone().unwrap_or_default();
            vec![
                queue.queue.to_string(),
                number(queue.before),
                number(queue.after),
                problem,
            ]
        });
        output::table(&["queue", "before", "after", "problem"], rows.collect());
        if report.dry_run {
            println!("\nnothing was changed: it is only shown");
        }
    }
    let open = report
        .queues
        .iter()
        .filter(|queue| queue.problem.is_some())
        .count();
    match open {
        0 => Ok(()),
        _ => Err(CliError::InPart(format!(
            "{open} of {} queues are not known to be done; run the same command with --id {}",
            report.queues.len(),
            report.id
        ))),
    }
}

async fn pause(name: &str, target: &Target, what: &str) -> Result<(), CliError> {
    let path = format!("{}/{what}", path(name));
    let group: GroupView = target.client().post(&path, &()).await?;
    if target.json {
        output::json(&group);
    } else {
        println!("{what}d consumer group {}", group.name);
    }
    Ok(())
}

#[derive(clap::Args)]
pub(super) struct CreateArgs {
    /// Letters, digits, `%`, `|`, `_` and `-`
    name: String,
    /// Deliveries of one message, the first included, before it is a dead letter
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// Waiting times between deliveries, as in 1s,5s,30s; the last one repeats
    #[arg(long, value_name = "DURATIONS", value_delimiter = ',')]
    backoff: Vec<Period>,
    /// Or: exponential, waiting time after the first delivery
    #[arg(
        long,
        value_name = "DURATION",
        conflicts_with = "backoff",
        requires = "backoff_max"
    )]
    backoff_initial: Option<Period>,
    /// Exponential: never longer than this
    #[arg(long, value_name = "DURATION", requires = "backoff_initial")]
    backoff_max: Option<Period>,
    /// Exponential: growth per delivery in percent, 200 doubles
    #[arg(
        long,
        value_name = "PERCENT",
        requires = "backoff_initial",
        default_value = "200"
    )]
    backoff_multiplier_percent: u32,
    /// Deliver the messages of a message group in order, one at a time
    #[arg(long)]
    fifo: bool,
    /// In order: what becomes of a message whose attempts are used up
    #[arg(long, value_enum, default_value = "dead-letter")]
    on_poison: parked::Policy,
    /// Where it starts in queues it has not read yet
    #[arg(long, value_name = "first|last", value_parser = ["first", "last"], default_value = "first")]
    start_at: String,
    #[command(flatten)]
    target: Target,
}

impl CreateArgs {
    fn spec(&self) -> GroupSpec {
        let exponential = |initial: Period, max: Period| BackoffView::Exponential {
            initial_ms: initial.millis(),
            max_ms: max.millis(),
            multiplier_percent: self.backoff_multiplier_percent,
        };
        let backoff = match (
            self.backoff_initial.zip(self.backoff_max),
            self.backoff.is_empty(),
        ) {
            (Some((initial, max)), _) => Some(exponential(initial, max)),
            (None, true) => None,
            (None, false) => {
                let next_ms = self.backoff.iter().map(|period| period.millis()).collect();
                Some(BackoffView::Customized { next_ms })
            }
        };
        let start_at = if self.start_at == "last" {
            StartAt::Last
        } else {
            StartAt::First
        };
        GroupSpec {
            name: self.name.clone(),
            max_attempts: self.max_attempts,
            backoff,
            fifo: self.fifo,
            start_at,
            on_poison: self.on_poison.into(),
        }
    }
}

pub(super) async fn run(command: GroupCommand) -> Result<(), CliError> {
    match command {
        GroupCommand::Create(args) => {
            let group: GroupView = args
                .target
                .client()
                .post("/v1/consumer-groups", &args.spec())
                .await?;
            if args.target.json {
                output::json(&group);
            } else {
                println!(
                    "created consumer group {} (at most {} attempts)",
                    group.name, group.max_attempts
                );
            }
        }
        GroupCommand::List { target } => {
            let groups: Vec<GroupView> = target.client().get("/v1/consumer-groups").await?;
            if target.json {
                output::json(&groups);
            } else {
                let headings = [
                    "consumer group",
                    "attempts",
                    "backoff",
                    "fifo",
                    "created",
                    "paused",
                ];
                output::table(&headings, groups.iter().map(row).collect());
            }
        }
        GroupCommand::Describe { name, target } => {
            let group: GroupDetail = target.client().get(&path(&name)).await?;
            if target.json {
                output::json(&group);
            } else {
                describe(&group);
            }
        }
        GroupCommand::Seek(args) => seek(&args).await?,
        GroupCommand::Pause { name, target } => pause(&name, &target, "pause").await?,
        GroupCommand::Resume { name, target } => pause(&name, &target, "resume").await?,
        GroupCommand::Parked { name, limit, target } => parked::list(&name, limit, &target).await?,
        GroupCommand::Skip(args) => parked::decide(&args, "skip").await?,
        GroupCommand::Release(args) => parked::decide(&args, "release").await?,
        GroupCommand::OnPoison { name, policy, target } => parked::on_poison(&name, policy, &target).await?,
        GroupCommand::Delete { name, target } => {
            target.client().delete(&path(&name)).await?;
            if !target.json {
                println!("deleted consumer group {name}");
            }
        }
    }
    Ok(())
}

fn path(name: &str) -> String {
    format!("/v1/consumer-groups/{}", segment(name))
}

fn millis(ms: u64) -> String {
    Period(std::time::Duration::from_millis(ms)).to_string()
}

fn backoff(backoff: &BackoffView) -> String {
    match backoff {
        BackoffView::Exponential {
            initial_ms,
            max_ms,
            multiplier_percent,
        } => {
            format!(
                "{} to {}, x{}%",
                millis(*initial_ms),
                millis(*max_ms),
                multiplier_percent
            )
        }
        BackoffView::Customized { next_ms } => match next_ms.as_slice() {
            [] => "-".to_owned(),
            [one] => millis(*one),
            [first, .., last] => format!("{} to {}, {} steps", millis(*first), millis(*last), next_ms.len()),
        },
    }
}

fn row(group: &GroupView) -> Vec<String> {
    vec![
        group.name.clone(),
        group.max_attempts.to_string(),
        backoff(&group.backoff),
        if group.fifo { "yes" } else { "no" }.to_owned(),
        output::time(group.created_ms),
        if group.paused { "yes" } else { "no" }.to_owned(),
    ]
}

fn describe(detail: &GroupDetail) {
    let group = &detail.group;
    let (attempts, waits) = (group.max_attempts, backoff(&group.backoff));
    println!(
        "consumer group {}: at most {attempts} attempts, backoff {waits}",
        group.name
    );
    if group.paused {
        println!(
            "paused: nothing is delivered until `flotilla group resume {}`",
            group.name
        );
    }
    if detail.total.parked > 0 {
        println!(
            "message groups stand still at {} messages: see `flotilla group parked {}`",
            detail.total.parked, group.name
        );
    }
    let Lag {
        ready,
        leased,
        waiting,
        blocked,
        ..
    } = detail.total;
    println!(
        "{ready} ready, {leased} leased, {waiting} waiting for retry, {blocked} for their message group\n"
    );
    let has_lanes = detail.queues.iter().any(|queue| queue.lane.is_some());
    let rows = detail.queues.iter().map(|queue| {
        let mut row = vec![queue.topic.clone()];
        let numbers = [
            u64::from(queue.queue),
            queue.cursor,
            queue.lag.ready,
            queue.lag.leased,
            queue.lag.waiting,
            queue.lag.blocked,
            queue.filtered,
        ];
        row.extend(numbers.map(|number| number.to_string()));
        if has_lanes {
            row.push(queue.lane.clone().unwrap_or_else(|| "-".into()));
        }
        row
    });
    let mut headings = vec![
        "topic", "queue", "next new", "ready", "leased", "waiting", "blocked", "filtered",
    ];
    if has_lanes {
        headings.push("priority");
    }
    output::table(&headings, rows.collect());
    for queue in &detail.queues {
        if let Some(to) = queue.seeks_to {
            println!(
                "\n{} {} is on its way to {to}: nothing is delivered before it is there",
                queue.topic, queue.queue
            );
        }
    }
    if !detail.unreachable_shards.is_empty() {
        println!(
            "\nno leader answered for shards {:?}: their queues are missing here",
            detail.unreachable_shards
        );
    }
}

//! `flotilla dead-letter ...`: messages that could not be consumed, and how they go back.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{
    Target,
    client::{CliError, segment},
    output,
};
use crate::{
    clock::{Clock, SystemClock},
    views::{
        LetterView, LettersPage, LettersQuery, NoteView, RedriveOutcome, RedriveReport, RedriveSpec,
        RedrivenView,
    },
};

/// Letters that one request looks at.
const STEP: u32 = 256;

#[derive(clap::Subcommand)]
pub(super) enum DeadLetterCommand {
    /// List the dead letters of a consumer group, and what became of each
    List {
        #[command(flatten)]
        which: Which,
        /// Stop after so many
        #[arg(long, value_name = "N", default_value = "1000")]
        limit: usize,
        #[command(flatten)]
        target: Target,
    },
    /// Give dead letters back to the consumer group that they died in; none twice, however often this is asked for
    Redrive(Box<RedriveArgs>),
}

/// Which dead letters are meant.
#[derive(clap::Args)]
pub(super) struct Which {
    /// Name of the consumer group
    group: String,
    /// Only what came from this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only what has this tag
    #[arg(long)]
    tag: Option<String>,
    /// Only what died then or later: 2026-11-30T10:00:00Z, or milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = output::parse_time)]
    since: Option<u64>,
    /// Only what died before
    #[arg(long, value_name = "TIME", value_parser = output::parse_time)]
    before: Option<u64>,
}

impl Which {
    fn query(&self, from: Option<String>, limit: u32) -> LettersQuery {
        LettersQuery {
            from,
            limit: Some(limit),
            topic: self.topic.clone(),
            tag: self.tag.clone(),
            since_ms: self.since,
            before_ms: self.before,
        }
    }

    fn path(&self, what: &str) -> String {
        format!("/v1/consumer-groups/{}/dead-letters{what}", segment(&self.group))
    }
}

#[derive(clap::Args)]
pub(super) struct RedriveArgs {
    #[command(flatten)]
    which: Which,
    /// Show what would become of each, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// At most so many a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Asks again for a redrive that was cut short; it printed this number
    #[arg(long)]
    id: Option<u64>,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(command: DeadLetterCommand) -> Result<(), CliError> {
    match command {
        DeadLetterCommand::List { which, limit, target } => {
            let found = list(&which, limit, &target).await?;
            if target.json {
                output::json(&found);
            } else {
                let headings = [
                    "message id",
                    "topic",
                    "queue",
                    "offset",
                    "died at",
                    "redriven at",
                    "events",
                    "last",
                ];
                output::table(&headings, found.iter().map(row).collect());
            }
            Ok(())
        }
        DeadLetterCommand::Redrive(args) => redrive(&args).await,
    }
}

/// Page after page, until there are no more or enough.
async fn list(which: &Which, limit: usize, target: &Target) -> Result<Vec<LetterView>, CliError> {
    let mut found = Vec::new();
    let mut from = None;
    while found.len() < limit {
        let query = which.query(from, STEP);
        let page: LettersPage = target.client().post(&which.path(""), &query).await?;
        found.extend(page.letters);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    found.truncate(limit);
    Ok(found)
}

/// Step after step, no faster than is asked for. What was done stands in the cluster, so that it can be asked for again at any time.
async fn redrive(args: &RedriveArgs) -> Result<(), CliError> {
    let begun = Instant::now();
    // Known before the first step: its answer may be lost. 0 would say that it has no name.
    let drawn = || SystemClock::default().random_u64();
    let id = args.id.unwrap_or_else(drawn).max(1);
    let mut report = RedriveReport {
        dry_run: args.dry_run,
        id,
        ..RedriveReport::default()
    };
    let (mut from, mut is_first) = (None, true);
    let step = args.rate.map_or(STEP, |rate| rate.min(STEP));
    loop {
        let spec = RedriveSpec {
            which: args.which.query(from, step),
            dry_run: args.dry_run,
            id: Some(id),
        };
        let (client, path) = (args.target.client(), args.which.path("/redrive"));
        let done: RedriveReport = match client.post(&path, &spec).await {
            Ok(done) => done,
            // Refused at once: nothing was done.
            Err(error @ (CliError::Refused(_) | CliError::Usage(_))) if is_first => return Err(error),
            Err(error) => {
                show(&report, &args.target);
                return Err(CliError::InPart(format!(
                    "{error}; what was asked for last may have been done, the rest was not asked for: run the same command with --id {id}"
                )));
            }
        };
        is_first = false;
        report.letters.extend(done.letters);
        from = done.next;
        if from.is_none() {
            break;
        }
        if let Some(rate) = args.rate.filter(|_| !args.dry_run) {
            let due = Duration::from_secs_f64(report.letters.len() as f64 / f64::from(rate));
            tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        }
    }
    show(&report, &args.target);
    match counts(&report.letters)
        .iter()
        .filter(|(outcome, _)| is_open(**outcome))
        .count()
    {
        0 => Ok(()),
        _ => Err(CliError::InPart(format!(
            "some could not be given back now; run the same command with --id {id}"
        ))),
    }
}

/// Outcomes after which it helps to ask again.
fn is_open(outcome: RedriveOutcome) -> bool {
    matches!(outcome, RedriveOutcome::Seeks | RedriveOutcome::Full)
}

fn counts(letters: &[RedrivenView]) -> BTreeMap<RedriveOutcome, usize> {
    let mut counts = BTreeMap::new();
    for letter in letters {
        *counts.entry(letter.outcome).or_default() += 1;
    }
    counts
}

fn show(report: &RedriveReport, target: &Target) {
    if target.json {
        return output::json(report);
    }
    let rows = report.letters.iter().map(|redriven| {
        vec![
            output::or_dash(redriven.letter.message_id.as_ref()),
            output::or_dash(redriven.letter.topic.as_ref()),
            output::time(redriven.letter.died_ms),
            name(&redriven.outcome),
        ]
    });
    output::table(&["message id", "topic", "died at", "outcome"], rows.collect());
    let counts = counts(&report.letters);
    let counts: Vec<String> = counts
        .iter()
        .map(|(outcome, count)| format!("{count} {}", name(outcome)))
        .collect();
    println!("\nredrive {}: {}", report.id, counts.join(", "));
    if report.dry_run {
        println!("nothing was changed: it is only shown");
    }
}

/// As JSON has it.
pub(super) fn name(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_value(value).ok();
    text.and_then(|text| text.as_str().map(|text| text.replace('_', " ")))
        .unwrap_or_default()
}

/// What became of a message last.
pub(super) fn last(history: &[NoteView]) -> String {
    history
        .last()
        .map_or_else(|| "-".to_owned(), |note| name(&note.what))
}

fn row(letter: &LetterView) -> Vec<String> {
    vec![
        output::or_dash(letter.message_id.as_ref()),
        output::or_dash(letter.topic.as_ref()),
        letter.queue.to_string(),
        letter.offset.to_string(),
        output::time(letter.died_ms),
        output::or_dash(letter.redriven_ms.map(output::time)),
        letter.events.to_string(),
        last(&letter.history),
    ]
}

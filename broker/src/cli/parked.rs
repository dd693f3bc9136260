//! `flotilla group parked|skip|release|on-poison`: message groups that stopped at a message that could not be consumed.

use super::{
    Target,
    client::{CliError, segment},
    dead_letter, output,
};
use crate::views::{
    GroupView, OnPoison, ParkedPage, ParkedQuery, ParkedView, PoisonSpec, UnparkReport, UnparkSpec,
};

/// How a policy is written on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Policy {
    /// It is a dead letter, and its message group goes on
    DeadLetter,
    /// Its message group stops at it until somebody decides
    Park,
}

impl From<Policy> for OnPoison {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::DeadLetter => OnPoison::DeadLetter,
            Policy::Park => OnPoison::Park,
        }
    }
}

#[derive(clap::Args)]
pub(super) struct DecideArgs {
    /// Name of the consumer group
    name: String,
    /// As `flotilla group parked` shows them
    #[arg(required = true)]
    handles: Vec<String>,
    #[command(flatten)]
    target: Target,
}

/// Shows what is parked, page after page.
pub(super) async fn list(name: &str, limit: usize, target: &Target) -> Result<(), CliError> {
    let mut found: Vec<ParkedView> = Vec::new();
    let mut from = None;
    while found.len() < limit {
        let query = ParkedQuery {
            from,
            limit: Some(256),
        };
        let page: ParkedPage = target.client().post(&path(name, "parked"), &query).await?;
        found.extend(page.messages);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    found.truncate(limit);
    if target.json {
        output::json(&found);
    } else {
        let headings = [
            "handle",
            "message group",
            "message id",
            "topic",
            "queue",
            "offset",
            "attempts",
            "blocked",
            "last",
        ];
        output::table(&headings, found.iter().map(row).collect());
    }
    Ok(())
}

/// Decides on each; the first that is refused ends it.
pub(super) async fn decide(args: &DecideArgs, what: &str) -> Result<(), CliError> {
    let mut done = Vec::new();
    for handle in &args.handles {
        let spec = UnparkSpec {
            handle: handle.clone(),
        };
        let path = path(&args.name, &format!("parked/{what}"));
        let report: UnparkReport = args.target.client().post(&path, &spec).await?;
        if !args.target.json {
            println!(
                "{}: {}",
                report.handle,
                if what == "skip" { "skipped" } else { "released" }
            );
        }
        done.push(report);
    }
    if args.target.json {
        output::json(&done);
    }
    Ok(())
}

/// Changes what becomes of poison messages.
pub(super) async fn on_poison(name: &str, policy: Policy, target: &Target) -> Result<(), CliError> {
    let spec = PoisonSpec {
        on_poison: policy.into(),
    };
    let group: GroupView = target.client().post(&path(name, "poison"), &spec).await?;
    if target.json {
        output::json(&group);
    } else {
        println!(
            "consumer group {}: {}",
            group.name,
            dead_letter::name(&group.on_poison)
        );
    }
    Ok(())
}

fn path(name: &str, what: &str) -> String {
    format!("/v1/consumer-groups/{}/{what}", segment(name))
}

fn row(message: &ParkedView) -> Vec<String> {
    vec![
        message.handle.clone(),
        output::or_dash(message.message_group.as_ref()),
        output::or_dash(message.message_id.as_ref()),
        output::or_dash(message.topic.as_ref()),
        message.queue.to_string(),
        message.offset.to_string(),
        message.attempts.to_string(),
        message.blocked.to_string(),
        dead_letter::last(&message.history),
    ]
}

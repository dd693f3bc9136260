//! `flotilla delay ...`: messages that wait for their date.

use super::{
    Target,
    client::{CliError, segment},
    output,
};
use crate::views::{DelayedDone, DelayedPage, DelayedQuery, DelayedView, RecallSpec, RetimeSpec};

#[derive(clap::Subcommand)]
pub(super) enum DelayCommand {
    /// List the messages of a topic that wait for their date
    List {
        /// Name of the topic
        topic: String,
        /// Only the message with this id
        #[arg(long, value_name = "ID")]
        message_id: Option<String>,
        /// Stop after so many
        #[arg(long, value_name = "N", default_value = "1000")]
        limit: usize,
        #[command(flatten)]
        target: Target,
    },
    /// Recall a message that waits: it is never delivered
    Recall {
        /// Name of the topic
        topic: String,
        /// As the sender was told, or as `list` shows it
        handle: String,
        #[command(flatten)]
        target: Target,
    },
    /// Have a message that waits delivered at another time
    Retime {
        /// Name of the topic
        topic: String,
        /// As the sender was told, or as `list` shows it
        handle: String,
        /// The new date, as in 2026-11-30T10:00:00Z, or in milliseconds since 1970; in the past is at once
        #[arg(long, value_name = "TIME", value_parser = output::parse_time)]
        to: u64,
        #[command(flatten)]
        target: Target,
    },
}

pub(super) async fn run(command: DelayCommand) -> Result<(), CliError> {
    match command {
        DelayCommand::List {
            topic,
            message_id,
            limit,
            target,
        } => {
            let found = list(&topic, message_id, limit, &target).await?;
            if target.json {
                output::json(&found);
            } else {
                let headings = [
                    "message id",
                    "delivered at",
                    "sent at",
                    "bytes",
                    "queue",
                    "recall handle",
                ];
                output::table(&headings, found.iter().map(row).collect());
            }
        }
        DelayCommand::Recall {
            topic,
            handle,
            target,
        } => {
            let spec = RecallSpec {
                recall_handle: handle,
            };
            let done: DelayedDone = target.client().post(&path(&topic, "/recall"), &spec).await?;
            if target.json {
                output::json(&done);
            } else {
                println!("recalled {}", done.message_id);
            }
        }
        DelayCommand::Retime {
            topic,
            handle,
            to,
            target,
        } => {
            let spec = RetimeSpec {
                recall_handle: handle,
                delivery_ms: to,
            };
            let done: DelayedDone = target.client().post(&path(&topic, "/retime"), &spec).await?;
            if target.json {
                output::json(&done);
            } else {
                println!("{} is delivered at {}", done.message_id, output::time(to));
            }
        }
    }
    Ok(())
}

/// Page after page, until there are no more or enough.
async fn list(
    topic: &str,
    message_id: Option<String>,
    limit: usize,
    target: &Target,
) -> Result<Vec<DelayedView>, CliError> {
    let mut found = Vec::new();
    let mut from = None;
    while found.len() < limit {
        let query = DelayedQuery {
            from,
            limit: Some(256),
            message_id: message_id.clone(),
        };
        let page: DelayedPage = target.client().post(&path(topic, ""), &query).await?;
        found.extend(page.messages);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    found.truncate(limit);
    Ok(found)
}

fn path(topic: &str, what: &str) -> String {
    format!("/v1/topics/{}/delayed{what}", segment(topic))
}

fn row(message: &DelayedView) -> Vec<String> {
    vec![
        message.message_id.clone(),
        output::time(message.delivery_ms),
        output::time(message.stored_ms),
        message.body_bytes.to_string(),
        message.queue.to_string(),
        message.recall_handle.clone(),
    ]
}

//! `flotilla transaction ...`: transactions that nobody has ended.

use super::{
    Target,
    client::{CliError, segment},
    output,
};
use crate::views::{
    Resolution, ResolveSpec, TransactionDone, TransactionPage, TransactionQuery, TransactionView,
};

#[derive(clap::Subcommand)]
pub(super) enum TransactionCommand {
    /// List the transactions of a topic that nobody has ended
    List {
        /// Name of the topic
        topic: String,
        /// Only those about which producers were asked in vain, and are not asked any more
        #[arg(long)]
        given_up: bool,
        /// Only the one of the message with this id
        #[arg(long, value_name = "ID")]
        message_id: Option<String>,
        /// Stop after so many
        #[arg(long, value_name = "N", default_value = "1000")]
        limit: usize,
        #[command(flatten)]
        target: Target,
    },
    /// End a transaction by hand; what has ended the other way before stays so
    Resolve {
        /// Name of the topic
        topic: String,
        /// As `list` shows it
        transaction_id: String,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct How {
    /// Its message is delivered
    #[arg(long)]
    commit: bool,
    /// Its message never is
    #[arg(long)]
    rollback: bool,
}

pub(super) async fn run(command: TransactionCommand) -> Result<(), CliError> {
    match command {
        TransactionCommand::List {
            topic,
            given_up,
            message_id,
            limit,
            target,
        } => {
            let query = TransactionQuery {
                from: None,
                limit: Some(256),
                message_id,
                only_given_up: given_up,
            };
            let found = list(&topic, query, limit, &target).await?;
            if target.json {
                output::json(&found);
            } else {
                let headings = [
                    "message id",
                    "sent at",
                    "asked",
                    "state",
                    "bytes",
                    "queue",
                    "transaction id",
                ];
                output::table(&headings, found.iter().map(row).collect());
            }
        }
        TransactionCommand::Resolve {
            topic,
            transaction_id,
            how,
            target,
        } => {
            let spec = ResolveSpec {
                transaction_id,
                resolution: match how.commit {
                    true => Resolution::Commit,
                    false => Resolution::Rollback,
                },
            };
            let done: TransactionDone = target.client().post(&path(&topic, "/resolve"), &spec).await?;
            if target.json {
                output::json(&done);
            } else {
                let how = match done.resolution {
                    Resolution::Commit => "committed",
                    Resolution::Rollback => "rolled back",
                };
                println!("{how} {}", done.message_id);
            }
        }
    }
    Ok(())
}

/// Page after page, until there are no more or enough.
async fn list(
    topic: &str,
    mut query: TransactionQuery,
    limit: usize,
    target: &Target,
) -> Result<Vec<TransactionView>, CliError> {
    let mut found = Vec::new();
    while found.len() < limit {
        let page: TransactionPage = target.client().post(&path(topic, ""), &query).await?;
        found.extend(page.transactions);
        query.from = page.next;
        if query.from.is_none() {
            break;
        }
    }
    found.truncate(limit);
    Ok(found)
}

fn path(topic: &str, what: &str) -> String {
    format!("/v1/topics/{}/transactions{what}", segment(topic))
}

fn row(transaction: &TransactionView) -> Vec<String> {
    let state = match transaction.next_check_in_ms {
        Some(ms) => format!("asked in {} s", ms.div_ceil(1_000)),
        None => "given up".to_owned(),
    };
    vec![
        transaction.message_id.clone(),
        output::time(transaction.stored_ms),
        format!("{} times", transaction.checks),
        state,
        transaction.body_bytes.to_string(),
        transaction.queue.to_string(),
        transaction.transaction_id.clone(),
    ]
}

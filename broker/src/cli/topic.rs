//! `flotilla topic ...`.

use super::{
    Target,
    client::{CliError, segment},
    output::{self, or_dash},
};
use crate::{
    config::Period,
    views::{TopicDetail, TopicSpec, TopicView},
};

#[derive(clap::Subcommand)]
pub(super) enum TopicCommand {
    /// Create a topic
    Create {
        /// Letters, digits, `%`, `|`, `_` and `-`
        name: String,
        /// Number of queues; the node's default_queues when not given
        #[arg(long, value_name = "N")]
        queues: Option<u32>,
        /// Kind of messages it takes
        #[arg(
            long = "type",
            visible_alias = "kind",
            value_name = "TYPE",
            default_value = "NORMAL",
            ignore_case = true
        )]
        #[arg(value_parser = ["NORMAL", "FIFO", "DELAY", "TRANSACTION", "PRIORITY", "MIXED"])]
        message_type: String,
        /// Of a PRIORITY topic: so much waiting (30s, 5m) weighs as one lane, so that what is least urgent comes, too
        #[arg(long, value_name = "PERIOD")]
        ageing: Option<Period>,
        #[command(flatten)]
        target: Target,
    },
    /// List all topics
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Show a topic and its queues
    Describe {
        /// Name of the topic
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Delete a topic and all its messages
    Delete {
        /// Name of the topic
        name: String,
        #[command(flatten)]
        target: Target,
    },
}

pub(super) async fn run(command: TopicCommand) -> Result<(), CliError> {
    match command {
        TopicCommand::Create {
            name,
            queues,
            message_type,
            ageing,
            target,
        } => {
            let spec = TopicSpec {
                name,
                queues,
                message_type: message_type.to_uppercase(),
                ageing_ms: ageing.map(Period::millis),
            };
            let topic: TopicView = target.client().post("/v1/topics", &spec).await?;
            if target.json {
                output::json(&topic);
            } else {
                println!(
                    "created topic {} ({} queues, {})",
                    topic.name, topic.queues, topic.message_type
                );
            }
        }
        TopicCommand::List { target } => {
            let topics: Vec<TopicView> = target.client().get("/v1/topics").await?;
            if target.json {
                output::json(&topics);
            } else {
                output::table(
                    &["topic", "queues", "type", "created"],
                    topics.iter().map(row).collect(),
                );
            }
        }
        TopicCommand::Describe { name, target } => {
            let topic: TopicDetail = target.client().get(&path(&name)).await?;
            if target.json {
                output::json(&topic);
            } else {
                describe(&topic);
            }
        }
        TopicCommand::Delete { name, target } => {
            target.client().delete(&path(&name)).await?;
            if !target.json {
                println!("deleted topic {name}");
            }
        }
    }
    Ok(())
}

fn path(name: &str) -> String {
    format!("/v1/topics/{}", segment(name))
}

fn row(topic: &TopicView) -> Vec<String> {
    vec![
        topic.name.clone(),
        topic.queues.to_string(),
        topic.message_type.clone(),
        output::time(topic.created_ms),
    ]
}

fn describe(detail: &TopicDetail) {
    let topic = &detail.topic;
    let created = output::time(topic.created_ms);
    println!(
        "topic {}: {} queues, {}, created {created}\n",
        topic.name, topic.queues, topic.message_type
    );
    if let Some(ageing_ms) = topic.ageing_ms {
        let period = Period(std::time::Duration::from_millis(ageing_ms));
        println!("ageing: {period} of waiting weigh as one lane\n");
    }
    // Lanes are what people look for: the highest comes first.
    let has_lanes = detail.queue_list.iter().any(|queue| queue.lane.is_some());
    let mut queues: Vec<_> = detail.queue_list.iter().collect();
    if has_lanes {
        queues.reverse();
    }
    let rows = queues.into_iter().map(|queue| {
        let messages = queue
            .next_offset
            .zip(queue.first_offset)
            .map(|(next, first)| next.saturating_sub(first));
        let mut row = vec![
            queue.queue.to_string(),
            queue.shard.to_string(),
            or_dash(queue.leader),
            or_dash(queue.first_offset),
            or_dash(queue.next_offset),
            or_dash(messages),
        ];
        row.extend(queue.lane.clone());
        row
    });
    let mut headings = vec!["queue", "shard", "leader", "first offset", "next offset", "kept"];
    if has_lanes {
        headings.push("priority");
    }
    output::table(&headings, rows.collect());
}

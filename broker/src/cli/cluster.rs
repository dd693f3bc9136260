//! `flotilla cluster ...`.

use super::{Target, client::CliError, output};
use crate::views::{ClusterView, ReplicaView, ShardView};

#[derive(clap::Subcommand)]
pub(super) enum ClusterCommand {
    /// Show the nodes, and the shards with their leaders and replicas
    Status {
        #[command(flatten)]
        target: Target,
    },
}

pub(super) async fn run(command: ClusterCommand) -> Result<(), CliError> {
    let ClusterCommand::Status { target } = command;
    let cluster: ClusterView = target.client().get("/v1/cluster").await?;
    if target.json {
        output::json(&cluster);
    } else {
        print(&cluster);
    }
    Ok(())
}

fn print(cluster: &ClusterView) {
    match &cluster.cluster {
        Some(id) => println!(
            "cluster {id}, as node {} sees it ({})\n",
            cluster.node, cluster.version
        ),
        None => println!(
            "node {} has no cluster yet: it waits for the other nodes of initial_cluster\n",
            cluster.node
        ),
    }
    if let Some(problem) = &cluster.problem {
        println!("node {} is not ready: {problem}\n", cluster.node);
    }
    let nodes = cluster.nodes.iter().map(|node| {
        vec![
            node.id.to_string(),
            match (node.alive, &node.problem) {
                (true, _) => "alive",
                (false, Some(_)) => "refused",
                (false, None) => "down",
            }
            .to_owned(),
            node.client_addr.clone(),
            node.http_addr.clone(),
            node.peer_addr.clone(),
            node.leads.to_string(),
            node.incarnation.to_string(),
        ]
    });
    output::table(
        &[
            "node",
            "state",
            "clients",
            "http",
            "peers",
            "leads",
            "incarnation",
        ],
        nodes.collect(),
    );
    for node in &cluster.nodes {
        if let Some(problem) = &node.problem {
            println!("\nnode {}: {problem}", node.id);
        }
        if !node.damaged.is_empty() {
            println!(
                "\nnode {} has records of shards {:?} that it cannot read: see its log",
                node.id, node.damaged
            );
        }
    }
    println!();
    let shards = cluster.shards.iter().map(|shard| {
        vec![
            if shard.id == 0 {
                "meta".to_owned()
            } else {
                shard.id.to_string()
            },
            match (shard.leader, shard.served) {
                (Some(leader), true) => leader.to_string(),
                (Some(leader), false) => format!("{leader} (no majority)"),
                (None, _) => "-".to_owned(),
            },
            shard.term.to_string(),
            shard.committed.to_string(),
            shard.applied.to_string(),
            replicas(shard),
        ]
    });
    output::table(
        &["shard", "leader", "term", "committed", "applied", "replicas"],
        shards.collect(),
    );
}

/// Nodes; learners and what is behind are marked.
fn replicas(shard: &ShardView) -> String {
    let one = |replica: &ReplicaView| {
        let learner = if replica.voter { "" } else { " learner" };
        match replica.lag {
            _ if !replica.alive => format!("{}{learner} (down)", replica.node),
            Some(lag) if lag > 0 => format!("{}{learner} (-{lag})", replica.node),
            _ => format!("{}{learner}", replica.node),
        }
    };
    shard.replicas.iter().map(one).collect::<Vec<_>>().join(", ")
}

//! What the leader of a data shard does for push consumers: renews the leases of those that live, and ends those of the
//! ones that said good-bye. Beside the shard's keeper, so that time passes however many leases there are.
//!
//! What is due is found client by client: it costs as much as there are clients with leases, and the leases of the dead
//! take nobody's place. One command renews many leases.

use std::{sync::Arc, time::Duration};

use flotilla_proto::record::{Command, Depart, Renew, command::Command as Kind};
use queue_core::{
    Reply,
    limits::{MAX_RENEW_CLIENTS, MAX_RENEW_LEASES},
};

use super::{Node, shard::DataShard, signs};
use crate::limits::{
    AUTO_RENEW_LEASE_MS, DEPARTED_VISIBLE_AFTER_MS, HOLDERS_AT_ONCE, RENEW_BEFORE_MS, RENEW_EVERY_MS,
    RENEW_LIMIT,
};

/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs until the node stops.
pub(super) async fn run(node: Node, shard: Arc<DataShard>) {
    let mut stop = node.inner.stop.subscribe();
    let mut renewed_ms = 0;
    let mut departures = Departures::default();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if !shard.leads() {
            // What the next leader is about to do for departed clients may be lost.
            departures = Departures::default();
            continue;
        }
        let now = node.clock().steady_ms();
        if now >= renewed_ms + RENEW_EVERY_MS {
            renewed_ms = now;
            renew(&node, &shard).await;
        }
        departures.see(&node, &shard).await;
    }
}

/// Prolongs what ends soon of clients that gave a sign of life lately, or had no time yet to give one here.
async fn renew(node: &Node, shard: &DataShard) {
    plant!(RenewalNeverHappens => return);
    let led_since = shard.leadership().moved_ms();
    let mut next = Some(0);
    while let Some(from) = next {
        let (now, steady) = (shard.now_ms(), node.clock().steady_ms());
        let before_ms = now + RENEW_BEFORE_MS;
        let holders = shard.machine.read(|core| core.holders(from, HOLDERS_AT_ONCE));
        next = holders.last().and_then(|&(client, _)| client.checked_add(1));
        let due = holders.into_iter().filter_map(|(client, ends_ms)| {
            let ends_soon = ends_ms.is_some_and(|ends_ms| ends_ms < before_ms);
            ends_soon.then_some(client)
        });
        let (clients, mut due) = (&node.inner.clients, due.collect::<Vec<u64>>());
        let overdue = due.iter().copied();
        let overdue = overdue.filter(|&client| clients.is_overdue(client, led_since, steady));
        signs::ask(node, overdue.collect()).await;
        due.retain(|&client| clients.alive(client, led_since, node.clock().steady_ms()));
        for clients in due.chunks(MAX_RENEW_CLIENTS) {
            let renew = Renew {
                clients: clients.to_vec(),
                before_ms,
                until_ms: now + AUTO_RENEW_LEASE_MS,
                since_ms: now.saturating_sub(node.options().renew_at_most.as_millis() as u64),
                limit: RENEW_LIMIT,
            };
            // What fails is tried again at the next look.
            if !to_the_end(shard, Kind::Renew(renew)).await {
                return;
            }
        }
    }
}

/// Proposes a command until nothing is left for it to do; false if it did not get through.
async fn to_the_end(shard: &DataShard, kind: Kind) -> bool {
    let command = Command { command: Some(kind) };
    loop {
        match shard.proposer.submit(command.clone()).await {
            Ok(Reply::Prolonged { more: true, .. }) => {}
            reply => return reply.is_ok(),
        }
    }
}

/// Clients that said good-bye, as far as their leases in this shard have been seen to.
#[derive(Default)]
struct Departures {
    done: u64,
}

impl Departures {
    /// Has the leases that were renewed for clients that have departed since the last look end soon.
    async fn see(&mut self, node: &Node, shard: &DataShard) {
        plant!(GoodByeIgnored => return);
        let departures = node.inner.clients.departures();
        if departures == self.done {
            return;
        }
        let departed: Vec<u64> = node
            .inner
            .clients
            .departed(node.clock().steady_ms())
            .into_iter()
            .collect();
        for some in departed.chunks(HOLDERS_AT_ONCE) {
            let at_ms = shard.now_ms() + DEPARTED_VISIBLE_AFTER_MS;
            let holding: Vec<u64> = shard.machine.read(|core| {
                let holding = some.iter().copied();
                holding
                    .filter(|&client| core.holds_beyond(client, at_ms))
                    .collect()
            });
            for clients in holding.chunks(MAX_RENEW_CLIENTS) {
                // Some may be back: what came before took time.
                let departed = |client: &u64| node.inner.clients.has_departed(*client);
                let clients: Vec<u64> = clients.iter().copied().filter(departed).collect();
                if clients.is_empty() {
                    continue;
                }
                let depart = Depart {
                    clients,
                    at_ms,
                    limit: RENEW_LIMIT,
                };
                if !to_the_end(shard, Kind::Depart(depart)).await {
                    return;
                }
            }
        }
        self.done = plant!(GoodByeDuringLookLost => super::planted::departures_after_a_while(node).await, else departures);
    }
}

const _: () = assert!(RENEW_LIMIT as usize <= MAX_RENEW_LEASES);

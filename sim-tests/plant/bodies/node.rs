//! Bodies of planted bugs: what a node does with its shards.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use flotilla_proto::{
    peer::RaftRequest,
    record::{self, Command, command},
};
use queue_core::{GroupId, Lease, QueueId, Reply};
use raft_store::Replica;

use super::{
    Node,
    kv::Reading,
    machine::QueueMachine,
    proposer::{Answer, Proposer, SubmitError},
    shard::{DataShard, DeliverError},
};

/// A new leader ends all leases that its predecessor gave.
pub(super) fn release_all(shard: &DataShard) {
    if !shard.leads() {
        return;
    }
    let at_ms = Some(shard.now_ms());
    let leases: Vec<_> = shard.machine.read(|core| {
        let all = core.subscriptions().flat_map(|(group, queue, known)| {
            (0..known.cursor)
                .filter_map(move |offset| Some((group, queue, core.in_flight(group, queue, offset)?)))
        });
        all.filter(|(_, _, lease)| lease.leased).collect()
    });
    for (group, queue, lease) in leases {
        let release = record::Release {
            group: group.0,
            queue: queue.0,
            lease: Some(record::LeaseRef {
                offset: lease.offset,
                nonce: lease.nonce,
            }),
            action: record::release::Action::Retry as i32,
            at_ms,
            new_nonce: 0,
        };
        let command = Some(command::Command::Release(release));
        let _ = shard.proposer.enqueue(Command { command });
    }
}

/// Each of them by itself, whatever becomes of the others; what failed last is why all count as failed.
pub(super) fn one_by_one(
    proposer: &Proposer,
    commands: Vec<Command>,
) -> Result<Answer<Vec<Reply>>, SubmitError> {
    let queued: Vec<_> = commands.into_iter().map(|each| proposer.enqueue(each)).collect();
    let (sender, answer) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut replies = Ok(Vec::new());
        for queued in queued {
            let reply = match queued {
                Ok(reply) => reply
                    .await
                    .unwrap_or_else(|_| Err(SubmitError::Stopped("closed".into()))),
                Err(error) => Err(error),
            };
            match (reply, &mut replies) {
                (Ok(reply), Ok(replies)) => replies.push(reply),
                (Err(error), _) => replies = Err(error),
                (Ok(_), Err(_)) => {}
            }
        }
        let _ = sender.send(replies);
    });
    Ok(answer)
}

/// Whoever has the node's address is meant.
pub(super) fn to_whoever_is_here(mut request: RaftRequest, here: Option<&Replica>) -> RaftRequest {
    if let Some(replica) = here {
        request.to = replica.id();
    }
    request
}

/// Submits a delivery; what was read here is good enough when that fails with the leadership.
pub(super) async fn submit(shard: &DataShard, command: Command) -> Result<Reply, DeliverError> {
    let deliver = command.command.clone();
    match (shard.proposer.submit(command).await, deliver) {
        (Err(SubmitError::NotLeader { .. }), Some(command::Command::Deliver(deliver))) => {
            read(shard, deliver)
        }
        (reply, _) => Ok(reply?),
    }
}

/// What a delivery would give out, by this node's state.
fn read(shard: &DataShard, deliver: record::Deliver) -> Result<Reply, DeliverError> {
    let (group, queue) = (GroupId(deliver.group), QueueId(deliver.queue));
    let fates = deliver
        .new
        .iter()
        .flat_map(|run| vec![run.filtered; run.count as usize]);
    let new = (deliver.first_new..).zip(fates).filter(|(_, filtered)| !filtered);
    let new = new.map(|(offset, _)| offset);
    shard.replica.read_state(|state| {
        shard.machine.read(|core| {
            let mut leases = Vec::new();
            for offset in deliver.redeliver.iter().copied().chain(new) {
                let attempt = 1 + core.in_flight(group, queue, offset).map_or(0, |row| row.attempt);
                leases.extend(core.locate(&Reading(state), queue, offset)?.map(|stored| Lease {
                    offset,
                    attempt,
                    nonce: deliver.nonce,
                    position: stored.position,
                    stored_ms: stored.stored_ms,
                    message_group: 0,
                }));
            }
            Ok(Reply::Delivered { leases })
        })
    })
}

/// Reads with something in hand that nobody else gets meanwhile.
pub(super) async fn while_held<T, R>(held: T, read: impl Future<Output = R>) -> R {
    let read = read.await;
    drop(held);
    read
}

/// How often clients have departed, when others have been seen to for some time: time itself is what this bug is about.
pub(super) async fn departures_after_a_while(node: &Node) -> u64 {
    tokio::time::sleep(Duration::from_millis(500)).await;
    node.inner.clients.departures()
}

/// Shards whose ticks have ended, by the node's state of them.
static TICKED_OUT: Mutex<Vec<Weak<QueueMachine>>> = Mutex::new(Vec::new());

/// Lets time pass; never again in this replica once that was refused.
pub(super) async fn tick_until_refused(shard: &DataShard, tick: Command) -> Result<Reply, SubmitError> {
    let is_here = |known: &Weak<QueueMachine>| std::ptr::eq(known.as_ptr(), Arc::as_ptr(&shard.machine));
    let has_ended = |ended: &Vec<Weak<_>>| ended.iter().any(is_here);
    if has_ended(&TICKED_OUT.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Err(SubmitError::Overloaded);
    }
    let ticked = shard.proposer.submit(tick).await;
    if ticked.is_err() {
        let mut ended = TICKED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
        ended.retain(|known| known.strong_count() > 0);
        ended.push(Arc::downgrade(&shard.machine));
    }
    ticked
}

//! Bodies of planted bugs: what a node answers to clients.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use flotilla_proto::{
    record::{self, Command, command},
    rocketmq::{DeadLetterQueue, Message, SendMessageRequest, SendMessageResponse, SendResultEntry, Status},
};
use prost::Message as _;
use queue_core::{GroupId, QueueId};

use super::{ack, answer, answer::Refused, handle::Handle};
use crate::node::{Node, machine::QueueMachine, shard::DataShard};

/// A send that may go to any shard goes to the nearest.
pub(super) fn or_near(pinned: Option<u32>, node: &Node, topic: &record::Topic) -> Option<u32> {
    let near = || {
        topic
            .queue_shards
            .iter()
            .copied()
            .find(|&shard| node.leads(shard))
    };
    pinned.or_else(near)
}

/// The answer to a send that went well.
pub(super) fn as_if_stored(request: Bytes) -> SendMessageResponse {
    let request = SendMessageRequest::decode(request).expect("just encoded");
    let entry = |message: &Message| SendResultEntry {
        status: answer::ok(),
        message_id: message.system_properties.clone().unwrap_or_default().message_id,
        ..Default::default()
    };
    SendMessageResponse {
        status: answer::ok(),
        entries: request.messages.iter().map(entry).collect(),
    }
}

/// The ids of messages that were proposed at each shard's replica: a dedup window beside the log.
static PROPOSED: Mutex<Vec<(Weak<QueueMachine>, BTreeSet<String>)>> = Mutex::new(Vec::new());

/// Answers a send by what was proposed here before, stored or not; false if nothing was.
pub(super) fn answers(
    shard: &DataShard,
    queue: QueueId,
    id: &str,
    result: &mut Option<SendResultEntry>,
) -> bool {
    if is_new(shard, id) {
        return false;
    }
    let next = shard
        .machine
        .read(|core| core.queue(queue))
        .map_or(0, |ends| ends.next);
    *result = Some(SendResultEntry {
        status: answer::ok(),
        message_id: id.to_owned(),
        offset: next as i64,
        ..Default::default()
    });
    true
}

/// Remembers an id; true if it was not proposed here before.
fn is_new(shard: &DataShard, id: &str) -> bool {
    let mut proposed = PROPOSED.lock().unwrap_or_else(PoisonError::into_inner);
    proposed.retain(|(machine, _)| machine.strong_count() > 0);
    let here =
        |(machine, _): &(Weak<QueueMachine>, _)| std::ptr::eq(machine.as_ptr(), Arc::as_ptr(&shard.machine));
    let at = proposed.iter().position(here).unwrap_or_else(|| {
        proposed.push((Arc::downgrade(&shard.machine), BTreeSet::new()));
        proposed.len() - 1
    });
    proposed[at].1.insert(id.to_owned())
}

/// Acknowledges in this node's memory instead of the log.
pub(super) fn acked_in_memory(shard: &DataShard, handles: &[Handle]) -> Vec<Option<Status>> {
    let status = |handle: &Handle| {
        let group = GroupId(handle.group);
        match shard
            .machine
            .planted_ack(group, handle.queue, handle.offset, handle.nonce)
        {
            true => answer::ok(),
            false => ack::stale().status(),
        }
    };
    handles.iter().map(status).collect()
}

/// Has leases acknowledged, and does not wait until they are; nothing if not all of them hold by this node's state.
pub(super) fn acked_unseen(shard: &DataShard, handles: &[Handle]) -> Option<Vec<Option<Status>>> {
    let holds = |handle: &Handle| {
        let group = GroupId(handle.group);
        let known = shard
            .machine
            .read(|core| core.in_flight(group, handle.queue, handle.offset));
        known.is_some_and(|lease| lease.leased && lease.nonce == handle.nonce)
    };
    if !shard.leads() || !handles.iter().all(holds) {
        return None;
    }
    let status = |handle: &Handle| {
        let ack = record::Ack {
            group: handle.group,
            queue: handle.queue.0,
            leases: vec![record::LeaseRef {
                offset: handle.offset,
                nonce: handle.nonce,
            }],
        };
        let command = Some(command::Command::Ack(ack));
        match shard.proposer.enqueue(Command { command }) {
            Ok(_) => answer::ok(),
            Err(error) => Refused::from(error).status(),
        }
    };
    Some(handles.iter().map(status).collect())
}

/// A body that a buffer of 4,096 bytes does not hold misses its last byte.
pub(super) fn without_its_end(body: Bytes) -> Bytes {
    let end = body.len() - usize::from(body.len() > 4_096);
    body.slice(..end)
}

/// The keys of what is no dead letter.
pub(super) fn keys_of_no_letter(keys: Vec<String>, letter: &Option<DeadLetterQueue>) -> Vec<String> {
    match letter {
        Some(_) => Vec::new(),
        None => keys,
    }
}

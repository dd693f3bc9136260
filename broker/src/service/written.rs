//! What a receive's answer carries, for whoever writes it out: only leases whose answer left are renewed.

use std::{collections::BTreeMap, sync::Arc};

use flotilla_proto::{
    record::WrittenLeases,
    rocketmq::{ReceiveMessageRequest, ReceiveMessageResponse, receive_message_response::Content},
};

use super::{Caller, Service, handle::Handle};
use crate::{
    limits::ANSWER_MARGIN,
    node::{
        Node,
        clients::client_hash,
        written::{Line, Sign},
    },
    unread::Room,
};

/// The leases of a push consumer that one answer carries.
#[derive(Clone)]
pub struct Carried {
    node: Node,
    client: u64,
    leases: Arc<Vec<(u32, WrittenLeases)>>,
    /// The client waits until then, by the node's steady clock.
    until_ms: u64,
}

impl Service {
    /// [`Service::receive_message`], with what is to be told when the answer was written out.
    pub async fn receive_to_write(
        &self,
        caller: &Caller,
        request: ReceiveMessageRequest,
    ) -> (Vec<ReceiveMessageResponse>, Option<Carried>) {
        let mut room = self.unread().reader().room();
        self.receive_to_write_within(caller, request, &mut room).await
    }

    /// The same for a reader who may be slow.
    pub async fn receive_to_write_within(
        &self,
        caller: &Caller,
        request: ReceiveMessageRequest,
        room: &mut Room,
    ) -> (Vec<ReceiveMessageResponse>, Option<Carried>) {
        let begun_ms = self.node().clock().steady_ms();
        let renewed = request.auto_renew;
        let answers = self.receive_within(caller, request, room).await;
        let leases = if renewed { leases_in(&answers) } else { Vec::new() };
        let waits = caller.deadline.map_or(u64::MAX, |deadline| {
            deadline.saturating_sub(ANSWER_MARGIN).as_millis() as u64
        });
        let carried = (!leases.is_empty()).then(|| Carried {
            node: self.node().clone(),
            client: client_hash(&caller.client_id),
            leases: Arc::new(leases),
            until_ms: begun_ms.saturating_add(waits),
        });
        (answers, carried)
    }
}

impl Carried {
    /// The answer's last byte has left on this connection. One that left when the client had given up does not count.
    pub fn written(&self, line: &Arc<dyn Line>) {
        let now_ms = self.node.clock().steady_ms();
        if now_ms >= self.until_ms || line.sign(now_ms) == Sign::Gone {
            return;
        }
        for (shard, leases) in self.leases.iter() {
            let written = self.node.written();
            written.add(*shard, self.client, leases.clone(), Arc::clone(line), now_ms);
        }
    }
}

/// The leases in an answer, as their receipts name them, by shard and delivery.
fn leases_in(answers: &[ReceiveMessageResponse]) -> Vec<(u32, WrittenLeases)> {
    let mut leases: BTreeMap<(u32, u32, u64, u64), Vec<u64>> = BTreeMap::new();
    for answer in answers {
        let Some(Content::Message(message)) = &answer.content else {
            continue;
        };
        let receipt = message.system_properties.as_ref();
        let receipt = receipt.and_then(|properties| properties.receipt_handle.as_deref());
        if let Some(handle) = receipt.and_then(Handle::decode) {
            let delivery = (handle.shard, handle.group, handle.queue.0, handle.nonce);
            leases.entry(delivery).or_default().push(handle.offset);
        }
    }
    let leases = leases.into_iter();
    leases
        .map(|((shard, group, queue, nonce), offsets)| {
            let leases = WrittenLeases {
                group,
                queue,
                nonce,
                offsets,
            };
            (shard, leases)
        })
        .collect()
}

//! One data shard at run time: what this node, when it leads, does with its queues.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use flotilla_proto::record::{self, Command, command, configure};
use queue_core::{Fault, GroupId, Lease, QueueId, Refusal, Reply};
use raft_store::{PayloadError, Replica, ReplicaStatus};
use tokio::time::Instant;

use super::{
    machine::QueueMachine,
    proposer::{Proposer, SubmitError},
    written::Marking,
};
use crate::{
    clock::Clock,
    filter::Filter,
    limits::{Bounds, MAX_RECEIVE_BATCH},
    unread::Room,
};

mod choosing;
mod delayed;
mod letters;
mod looked;
mod pulling;
mod turns;

use looked::Looked;
use turns::{Turn, Turns};

/// A replica of one data shard with everything around it.
pub struct DataShard {
    /// Number of the shard, from 1.
    pub id: u32,
    /// Its Raft replica here.
    pub replica: Replica,
    /// Its state here.
    pub machine: Arc<QueueMachine>,
    /// The way commands get into its log.
    pub proposer: Proposer,
    /// Who leads, kept by the shard's keeper so that every request need not ask the replica.
    leadership: Leadership,
    clock: Arc<dyn Clock>,
    /// How much it takes on.
    pub(crate) bounds: Bounds,
    /// Deliveries under way: one at a time of a queue to a consumer group, so that nothing is chosen twice.
    delivering: Turns,
    /// What consumer groups know of new messages.
    looked: Looked,
    /// What nodes reported as written out and is on its way into the log.
    pub(super) marking: Marking,
    /// Held while messages are copied forward, so that none is copied twice.
    pub(super) copying: tokio::sync::Mutex<()>,
    /// Held while producers are asked about transactions: some at a time.
    pub(super) asking: Arc<tokio::sync::Semaphore>,
}

/// Who leads a shard, as last seen.
#[derive(Debug, Default)]
pub struct Leadership(Mutex<Seen>);

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    term: u64,
    /// The node that leads.
    leader: Option<u32>,
    here: bool,
    moved_ms: u64,
}

/// Times are of the node's steady clock.
impl Leadership {
    /// Takes over what the replica here reports now; true if this node began or ceased to lead.
    ///
    /// Nobody leads until the replica has caught up with the leaders before it: what it would choose, refuse or reckon by
    /// an older state and an older time is not what they have promised.
    pub fn see(&self, status: &ReplicaStatus, now_ms: u64) -> bool {
        let catching_up = status.is_leader && !status.caught_up;
        let leader = status.leader.filter(|_| !catching_up);
        self.take(Seen {
            term: status.term,
            leader: leader.map(super::node_of),
            here: status.is_leader && !catching_up,
            moved_ms: now_ms,
        })
    }

    /// Takes over what another node says of itself: that it leads. A replica whose log waits for room cannot even take
    /// down its leader's vote, and would stand in the way of its own node's requests until there is room.
    pub fn hear(&self, leader: u32, term: u64, now_ms: u64) -> bool {
        let seen = self.seen();
        // In one term a leader can be replaced by one with a larger id (openraft's order of votes).
        let newer = (term, Some(leader)) > (seen.term, seen.leader);
        newer
            && self.take(Seen {
                term,
                leader: Some(leader),
                here: false,
                moved_ms: now_ms,
            })
    }

    fn take(&self, new: Seen) -> bool {
        let mut seen = self.0.lock().expect("no panic while held");
        let replaced = new.leader.is_some() && new.leader < seen.leader;
        if new.term < seen.term || (new.term == seen.term && replaced) {
            return false;
        }
        let old = std::mem::replace(&mut *seen, new);
        if old.leader == new.leader {
            seen.moved_ms = plant!(GoneClientLivesAtTheNewLeader => seen.moved_ms, else old.moved_ms);
        }
        old.here != new.here
    }

    fn seen(&self) -> Seen {
        *self.0.lock().expect("no panic while held")
    }

    /// When another leader was seen last, or none.
    pub fn moved_ms(&self) -> u64 {
        self.seen().moved_ms
    }

    /// True if this node leads.
    pub fn here(&self) -> bool {
        self.seen().here
    }

    /// The node that leads.
    pub fn node(&self) -> Option<u32> {
        self.seen().leader
    }
}

/// What a consumer asks of one queue, or of all lanes of a PRIORITY topic.
#[derive(Debug, Clone)]
pub struct Want {
    /// The consumer group, as the catalogue has it now.
    pub group: Arc<record::ConsumerGroup>,
    /// Dead letters of this group go here; a queue of the same shard.
    pub dead_letter_queue: QueueId,
    /// How many deletions the catalogue knows of that knows this consumer group.
    pub deletions: u64,
    /// At most so many messages.
    pub count: usize,
    /// How long the leases last, milliseconds.
    pub lease_ms: u64,
    /// Renewed by the server while the client lives.
    pub auto_renew: bool,
    /// Hash of the client id.
    pub client: u64,
    /// What it wants of the topic's messages.
    pub filter: Filter,
    /// Hash of the client and of its attempt, so that it gets the same once more if its answer is lost; 0 if it does not say.
    pub request: u64,
    /// Whoever asks does not wait for an answer any longer than this.
    pub give_up: Option<Instant>,
    /// The topic's queues are lanes: what is asked of one is asked of all. So much of waiting weighs as one lane; 0: waiting weighs
    /// nothing.
    pub by_priority: Option<u64>,
}

impl Want {
    /// The rules of its consumer group, for no queue.
    pub(crate) fn rules(&self) -> record::Subscribe {
        let group = &self.group;
        record::Subscribe {
            group: group.id,
            queue: 0,
            start_at: group.start_at,
            max_attempts: group.max_attempts,
            backoff: group.backoff.clone(),
            dead_letter_queue: self.dead_letter_queue.0,
            deletions: self.deletions,
            version: group.version,
            paused: group.paused,
            fifo: group.fifo,
            park: group.park,
        }
    }
}

/// A leased message, as read back from the log.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Where it came from.
    pub queue: QueueId,
    /// Its offset there.
    pub offset: u64,
    /// 1 on first delivery.
    pub attempt: u32,
    /// With the offset, the name of the lease.
    pub nonce: u64,
    /// When it was stored, milliseconds since 1970.
    pub stored_ms: u64,
    /// The stored message.
    pub message: record::StoredMessage,
}

/// Why nothing could be delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The command did not get through.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The message is leased, but its bytes cannot be read here.
    #[error("a message cannot be read: {0}")]
    Unreadable(#[from] PayloadError),
    /// The state cannot be read here.
    #[error("the state cannot be read: {0}")]
    State(#[from] Fault),
    /// Nothing is leased: too many bytes wait to be read.
    #[error(
        "too many bytes of answers wait for this client to read them, or for all clients of this node; ask again"
    )]
    NoRoom,
}

impl DataShard {
    /// Puts a replica to work.
    pub fn new(
        id: u32,
        replica: Replica,
        machine: Arc<QueueMachine>,
        clock: Arc<dyn Clock>,
        bounds: Bounds,
    ) -> Self {
        let proposer = Proposer::start(replica.clone(), Arc::clone(&machine), bounds);
        Self {
            id,
            replica,
            machine,
            proposer,
            leadership: Leadership::default(),
            clock,
            bounds,
            delivering: Turns::default(),
            looked: Looked::default(),
            marking: Marking::default(),
            copying: tokio::sync::Mutex::default(),
            asking: Arc::new(tokio::sync::Semaphore::new(1)),
        }
    }

    /// The shard's own time, milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.machine.time.now_ms()
    }

    /// Who leads it.
    pub fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// True if this node leads it, as last seen.
    pub fn leads(&self) -> bool {
        self.leadership.here()
    }

    /// Leases what one queue has for a consumer now; empty when there is nothing. Room for the answer is taken first.
    pub async fn deliver(
        &self,
        queue: QueueId,
        want: &Want,
        room: &mut Room,
    ) -> Result<Vec<Delivery>, DeliverError> {
        if let Some(ageing_ms) = want.by_priority {
            return self
                .deliver_by_priority(queue.topic(), ageing_ms, want, room)
                .await;
        }
        let group = GroupId(want.group.id);
        let Some(turn) = self.take_turn(group, queue) else {
            return Ok(Vec::new());
        };
        self.subscribe_if_needed(queue, want).await?;
        let Some((choice, now)) = self.choose_any(queue, want, room).await? else {
            return Ok(Vec::new());
        };
        let nonce = self.clock.random_u64();
        let command = Command {
            command: Some(command::Command::Deliver(
                choice.to_lease(queue, want, now, nonce),
            )),
        };
        let reply = plant!(DeposedLeaderDelivers => super::planted::submit(self, command).await?, else self.proposer.submit(command).await?);
        let Reply::Delivered { leases } = reply else {
            return Ok(Vec::new());
        };
        // Others choose among what is left: a disk that is slow to read must not keep the queue from them.
        drop(turn);
        let places = leases
            .iter()
            .map(|lease| (lease.offset, lease.position))
            .collect();
        let read = self.read_at(queue, places);
        let read = plant!(TurnHeldWhileReading => super::planted::while_held(self.take_turn(group, queue), read).await, else read.await);
        Ok(paired(queue, leases, read?))
    }

    /// When a waiting message of this subscription becomes visible next.
    pub fn next_visible(&self, group: u32, queue: QueueId) -> Option<u64> {
        self.machine.read(|core| core.next_visible(GroupId(group), queue))
    }

    /// Lets a consumer group begin on a queue, and have the rules that it has now.
    pub async fn subscribe_if_needed(&self, queue: QueueId, want: &Want) -> Result<(), SubmitError> {
        let group = &want.group;
        let (known, is_behind) = self.machine.read(|core| {
            let is_behind = want.deletions < core.deletions();
            let first = group.start_at == record::StartAt::First as i32;
            if core.queue(queue).is_none() && plant!(EmptyQueueNotBegun => true, else first) {
                return (true, is_behind); // nothing was ever stored: the beginning is not over yet
            }
            let known = core.has_begun(GroupId(group.id), queue, group.version, want.dead_letter_queue);
            (known, is_behind)
        });
        if known {
            return Ok(());
        }
        // The state would say so, too, at the cost of an entry for every try.
        if is_behind {
            return Err(SubmitError::Behind);
        }
        let subscribe = record::Subscribe {
            queue: queue.0,
            ..want.rules()
        };
        let configure = record::Configure {
            what: Some(configure::What::Subscribe(subscribe)),
        };
        let command = Command {
            command: Some(command::Command::Configure(configure)),
        };
        match self.proposer.submit(command).await? {
            Reply::Refused(Refusal::Behind) => Err(SubmitError::Behind),
            _ => Ok(()),
        }
    }

    /// The numbers of a topic's queues of which a request was given something that is still leased to it.
    pub fn had_by(&self, group: u32, topic: u32, request: u64) -> Vec<u32> {
        let had = self
            .machine
            .read(|core| core.had_by(request, GroupId(group), topic, MAX_RECEIVE_BATCH));
        had.into_iter().map(|(queue, _)| queue.number()).collect()
    }

    fn take_turn(&self, group: GroupId, queue: QueueId) -> Option<Turn<'_>> {
        self.delivering.take(self.machine.hub(), group, queue)
    }
}

/// Leases with their messages, as far as they could be read.
fn paired(queue: QueueId, leases: Vec<Lease>, messages: Vec<(u64, record::StoredMessage)>) -> Vec<Delivery> {
    let mut messages = messages.into_iter().peekable();
    let mut broken = BTreeSet::new();
    let delivered = leases.into_iter().filter_map(|lease| {
        let read = messages.next_if(|&(offset, _)| offset == lease.offset);
        // What follows one that cannot be read now would come before it.
        let is_next = plant!(UnreadIsSkipped => true, else !broken.contains(&lease.message_group));
        let Some((_, message)) = read.filter(|_| is_next) else {
            broken.extend(Some(lease.message_group).filter(|group| *group != 0));
            return None;
        };
        Some(Delivery {
            queue,
            offset: lease.offset,
            attempt: lease.attempt,
            nonce: lease.nonce,
            stored_ms: lease.stored_ms,
            message,
        })
    });
    delivered.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(term: u64, leader: u32, is_leader: bool) -> ReplicaStatus {
        ReplicaStatus {
            term,
            leader: Some(super::super::replica_of(leader, 1)),
            is_leader,
            caught_up: is_leader,
            ..Default::default()
        }
    }

    #[test]
    fn nobody_leads_until_the_leader_has_caught_up() {
        let leadership = Leadership::default();
        assert!(!leadership.see(&status(4, 1, false), 10));
        let behind = ReplicaStatus {
            caught_up: false,
            ..status(5, 2, true)
        };
        assert!(!leadership.see(&behind, 20));
        assert_eq!((leadership.here(), leadership.node()), (false, None));
        assert!(leadership.see(&status(5, 2, true), 30));
        assert_eq!((leadership.here(), leadership.node()), (true, Some(2)));
    }

    #[test]
    fn another_node_that_leads_a_newer_term_counts_more_than_the_replica_here() {
        let leadership = Leadership::default();
        assert!(leadership.see(&status(4, 2, true), 10));
        assert!(!leadership.hear(1, 4, 20), "not newer");
        assert_eq!((leadership.here(), leadership.node()), (true, Some(2)));
        assert!(leadership.hear(1, 5, 30));
        assert!(
            !leadership.see(&status(4, 2, true), 40),
            "what it still believes is old"
        );
        assert_eq!((leadership.here(), leadership.node()), (false, Some(1)));
        assert_eq!(leadership.moved_ms(), 30);
        assert!(!leadership.see(&status(5, 1, false), 50));
        assert_eq!(leadership.moved_ms(), 30, "the same leader");
        assert!(leadership.see(&status(6, 2, true), 60));
        assert_eq!((leadership.node(), leadership.moved_ms()), (Some(2), 60));
    }

    #[test]
    fn in_one_term_a_leader_can_be_replaced_by_one_with_a_larger_id() {
        let leadership = Leadership::default();
        assert!(leadership.see(&status(4, 2, true), 10));
        assert!(leadership.hear(3, 4, 20));
        assert_eq!((leadership.here(), leadership.node()), (false, Some(3)));
        assert!(!leadership.see(&status(4, 2, true), 30), "it does not know yet");
        assert!(!leadership.hear(2, 4, 40));
        assert_eq!((leadership.here(), leadership.node()), (false, Some(3)));
    }
}

//! Turns the commands that wait for one shard into entries of its log.
//!
//! Nagle's rule, with entries for segments: when only a few commands are on their way,
//! what waits goes at once; otherwise it waits for the entry before it, unless enough
//! waits to fill another one. An entry costs Raft the same for one command as for a
//! thousand, so a shard with little to do answers at once, also while one entry is late,
//! and a busy one makes large entries. There is no timed linger; before an entry is cut
//! other ready tasks run while they keep adding commands.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures::{StreamExt, stream::FuturesUnordered};
use prost::Message;
use queue_core::{Reply, frame::EntryBuilder};
use raft_store::{ProposeError, Replica};
use tokio::sync::{Notify, mpsc, oneshot};

use flotilla_proto::record::Command;

use super::machine::QueueMachine;
use crate::limits::{
    FEW_COMMANDS_IN_FLIGHT, FRUITLESS_YIELDS, MAX_COMMAND_BYTES, MAX_ENTRIES_IN_FLIGHT, MAX_ENTRY_BYTES,
    MAX_ENTRY_COMMANDS, MAX_QUEUED_BYTES, MAX_QUEUED_COMMANDS, PIPELINE_BYTES,
};

/// Why a command has no reply.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum SubmitError {
    /// The shard is led elsewhere. If `unsure`, the command may still take effect.
    #[error("this node does not lead the shard")]
    NotLeader {
        /// Node id of the leader, as far as known.
        leader: Option<u32>,
        /// The command reached the log before leadership was lost.
        unsure: bool,
    },
    /// The bound of what may wait is reached: nothing was done.
    #[error("too many commands wait for this shard")]
    Overloaded,
    /// The command has more bytes than an entry may hold: nothing was done.
    #[error("a command of {0} bytes is too large; at most {MAX_COMMAND_BYTES} are allowed")]
    TooLarge(usize),
    /// The disk has no room for more messages: nothing was done.
    #[error("the disk is full; free space or shorten the retention")]
    NoRoom,
    /// The node stops, or its disk failed; the command may still take effect.
    #[error("the node is stopping: {0}")]
    Stopped(String),
}

struct Proposal {
    command: Command,
    bytes: usize,
    reply: oneshot::Sender<Result<Reply, SubmitError>>,
}

/// Handle to a shard's proposer; cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Proposal>,
    queued_bytes: Arc<AtomicUsize>,
    /// Rings when enough waits for an entry of its own.
    enough: Arc<Notify>,
}

impl Proposer {
    /// Starts the proposer of a replica. It ends when every handle is dropped.
    pub fn start(replica: Replica, machine: Arc<QueueMachine>) -> Self {
        let (queue, receiver) = mpsc::channel(MAX_QUEUED_COMMANDS);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let enough = Arc::new(Notify::new());
        let work = Batches {
            replica,
            machine,
            receiver,
            queued_bytes: Arc::clone(&queued_bytes),
            enough: Arc::clone(&enough),
            held: None,
        };
        tokio::spawn(work.run());
        Self {
            queue,
            queued_bytes,
            enough,
        }
    }

    /// Submits one command and waits until it is applied here.
    pub async fn submit(&self, command: Command) -> Result<Reply, SubmitError> {
        self.enqueue(command)?
            .await
            .unwrap_or_else(|_| Err(SubmitError::Stopped("the shard is closed".into())))
    }

    /// Queues one command; the order of calls is the order in the log.
    pub fn enqueue(
        &self,
        command: Command,
    ) -> Result<oneshot::Receiver<Result<Reply, SubmitError>>, SubmitError> {
        let bytes = command.encoded_len();
        if bytes > MAX_COMMAND_BYTES {
            return Err(SubmitError::TooLarge(bytes));
        }
        let before = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > MAX_QUEUED_BYTES {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(SubmitError::Overloaded);
        }
        let (reply, answer) = oneshot::channel();
        self.queue
            .try_send(Proposal {
                command,
                bytes,
                reply,
            })
            .map_err(|refused| {
                self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                match refused {
                    mpsc::error::TrySendError::Full(_) => SubmitError::Overloaded,
                    mpsc::error::TrySendError::Closed(_) => {
                        SubmitError::Stopped("the shard is closed".into())
                    }
                }
            })?;
        if before < PIPELINE_BYTES && before + bytes >= PIPELINE_BYTES {
            self.enough.notify_one();
        }
        Ok(answer)
    }

    /// Bytes that wait to be proposed.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }
}

struct Batches {
    replica: Replica,
    machine: Arc<QueueMachine>,
    receiver: mpsc::Receiver<Proposal>,
    queued_bytes: Arc<AtomicUsize>,
    enough: Arc<Notify>,
    /// Taken from the queue, but too large for the entry before it.
    held: Option<Proposal>,
}

impl Batches {
    async fn run(mut self) {
        let mut on_their_way = FuturesUnordered::new();
        let mut commands = 0;
        loop {
            let under_way = on_their_way.len();
            let enough = self.queued_bytes.load(Ordering::Relaxed) >= PIPELINE_BYTES;
            let few = commands < FEW_COMMANDS_IN_FLIGHT;
            let cut = under_way == 0 || ((few || enough) && under_way < MAX_ENTRIES_IN_FLIGHT);
            tokio::select! {
                biased;
                Some(done) = on_their_way.next() => commands -= done,
                first = next(&mut self.held, &mut self.receiver), if cut => {
                    let Some(first) = first else { break };
                    let batch = self.gather(first).await;
                    commands += batch.len();
                    on_their_way.push(propose(self.replica.clone(), self.machine.time.now_ms(), batch));
                }
                () = self.enough.notified(), if !cut => {}
            }
        }
        while on_their_way.next().await.is_some() {}
    }

    async fn gather(&mut self, first: Proposal) -> Vec<Proposal> {
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        let mut fruitless = 0;
        while fruitless < FRUITLESS_YIELDS && self.held.is_none() && batch.len() < MAX_ENTRY_COMMANDS {
            let before = batch.len();
            tokio::task::yield_now().await;
            while batch.len() < MAX_ENTRY_COMMANDS {
                let Ok(more) = self.receiver.try_recv() else { break };
                if bytes + more.bytes > MAX_ENTRY_BYTES {
                    self.held = Some(more);
                    break;
                }
                bytes += more.bytes;
                batch.push(more);
            }
            fruitless = if batch.len() > before { 0 } else { fruitless + 1 };
        }
        let taken: usize = batch.iter().map(|proposal| proposal.bytes).sum();
        self.queued_bytes.fetch_sub(taken, Ordering::Relaxed);
        batch
    }
}

async fn next(held: &mut Option<Proposal>, receiver: &mut mpsc::Receiver<Proposal>) -> Option<Proposal> {
    match held.take() {
        Some(proposal) => Some(proposal),
        None => receiver.recv().await,
    }
}

/// Tells how many commands the entry had.
async fn propose(replica: Replica, time_ms: u64, batch: Vec<Proposal>) -> usize {
    let commands = batch.len();
    let mut entry = EntryBuilder::new(time_ms);
    for proposal in &batch {
        entry.push(&proposal.command);
    }
    let waiting: Vec<_> = batch.into_iter().map(|proposal| proposal.reply).collect();
    match replica.propose(entry.finish()).await {
        Ok(applied) => {
            let replies: Vec<Reply> = applied.take().expect("a queue machine answers with replies");
            assert_eq!(replies.len(), waiting.len(), "one reply for each command");
            // Planted: counted from the wrong end.
            #[cfg(madsim)]
            let replies = match plant::is(plant::Bug::RepliesMixedUp) {
                true => [&replies[1..], &replies[..1]].concat(),
                false => replies,
            };
            for (sender, reply) in waiting.into_iter().zip(replies) {
                // The caller may have given up; the command stands all the same.
                let _ = sender.send(Ok(reply));
            }
        }
        Err(error) => {
            let error = SubmitError::from(error);
            for sender in waiting {
                let _ = sender.send(Err(error.clone()));
            }
        }
    }
    commands
}

impl From<ProposeError> for SubmitError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => SubmitError::NotLeader {
                leader: leader.map(super::node_of),
                unsure: false,
            },
            ProposeError::Unknown { leader } => SubmitError::NotLeader {
                leader: leader.map(super::node_of),
                unsure: true,
            },
            // What is queued is bounded so that its entries fit. Should one not, its callers hear it, and nothing is lost.
            ProposeError::TooLarge(size) => SubmitError::TooLarge(size),
            ProposeError::NoRoom => SubmitError::NoRoom,
            ProposeError::Stopped(reason) => SubmitError::Stopped(reason),
        }
    }
}

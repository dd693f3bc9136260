//! Turns the commands that wait for one shard into entries of its log.
//!
//! Nagle's rule, with entries for segments: when only a few commands are on their way,
//! what waits goes at once; otherwise it waits for the entry before it, unless enough
//! waits to fill another one. An entry costs Raft the same for one command as for a
//! thousand, so a shard with little to do answers at once, also while one entry is late,
//! and a busy one makes large entries. There is no timed linger; before an entry is cut
//! other ready tasks run while they keep adding commands. What fills an entry, and who is
//! refused when too much waits, is the business of the lanes (`lanes.rs`).

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{FutureExt, StreamExt, future::ready, stream::FuturesUnordered};
use prost::Message;
use queue_core::{Reply, frame::EntryBuilder};
use raft_store::{ProposeError, Replica};
use tokio::sync::{Notify, mpsc, oneshot};

use flotilla_proto::record::Command;

use super::{
    lanes::{Batch, Lane, Lanes},
    machine::QueueMachine,
};
use crate::limits::{
    FEW_COMMANDS_IN_FLIGHT, FRUITLESS_YIELDS, MAX_COMMAND_BYTES, MAX_ENTRIES_IN_FLIGHT, PIPELINE_BYTES,
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
    reply: oneshot::Sender<Result<Reply, SubmitError>>,
}

/// Handle to a shard's proposer; cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    queue: Arc<Queue>,
    machine: Arc<QueueMachine>,
    /// Dropped with the last handle, which ends the proposer.
    _handle: mpsc::Sender<Infallible>,
}

#[derive(Default)]
struct Queue {
    lanes: Mutex<Lanes<Proposal>>,
    /// Rings when there is something in them, or more than before.
    came: Notify,
}

impl Queue {
    fn lanes(&self) -> MutexGuard<'_, Lanes<Proposal>> {
        self.lanes.lock().expect("no panic while held")
    }
}

impl Proposer {
    /// Starts the proposer of a replica. It ends when every handle is dropped.
    pub fn start(replica: Replica, machine: Arc<QueueMachine>) -> Self {
        let queue = Arc::<Queue>::default();
        let (handle, handles) = mpsc::channel(1);
        let work = Batches {
            replica,
            machine: Arc::clone(&machine),
            queue: Arc::clone(&queue),
            handles,
        };
        tokio::spawn(work.run());
        Self {
            queue,
            machine,
            _handle: handle,
        }
    }

    /// Submits one command and waits until it is applied here.
    pub async fn submit(&self, command: Command) -> Result<Reply, SubmitError> {
        self.enqueue(command)?
            .await
            .unwrap_or_else(|_| Err(SubmitError::Stopped("the shard is closed".into())))
    }

    /// Queues one command; the order of calls is the order in the log among commands for the same purpose.
    pub fn enqueue(
        &self,
        command: Command,
    ) -> Result<oneshot::Receiver<Result<Reply, SubmitError>>, SubmitError> {
        let (lane, bytes) = (Lane::of(&command), command.encoded_len());
        if bytes > MAX_COMMAND_BYTES {
            return Err(SubmitError::TooLarge(bytes));
        }
        let (reply, answer) = oneshot::channel();
        // The shard's time runs on when this node takes the lead; what waits here did not wait for that long.
        let now_ms = self.machine.time.steady_ms();
        let proposal = Proposal { command, reply };
        let queued = self.queue.lanes().push(lane, proposal, bytes, now_ms);
        queued.map_err(|_| SubmitError::Overloaded)?;
        self.queue.came.notify_one();
        Ok(answer)
    }
}

/// What an entry on its way had in it.
struct UnderWay {
    commands: usize,
    /// It has no sends.
    is_small: bool,
}

struct Batches {
    replica: Replica,
    machine: Arc<QueueMachine>,
    queue: Arc<Queue>,
    handles: mpsc::Receiver<Infallible>,
}

impl Batches {
    async fn run(mut self) {
        let mut on_their_way = FuturesUnordered::new();
        let (mut commands, mut small) = (0, 0);
        loop {
            let cut = self.cut(on_their_way.len(), commands, small);
            tokio::select! {
                biased;
                Some(done) = on_their_way.next() => {
                    let UnderWay { commands: done, is_small } = done;
                    commands -= done;
                    small -= usize::from(is_small);
                }
                Some(with_sends) = ready(cut), if cut.is_some() => {
                    let batch = self.gather(with_sends).await;
                    let entry = UnderWay { commands: batch.len(), is_small: !with_sends };
                    commands += entry.commands;
                    small += usize::from(entry.is_small);
                    let proposed = propose(self.replica.clone(), self.machine.time.now_ms(), batch);
                    on_their_way.push(proposed.map(|()| entry));
                }
                () = self.queue.came.notified(), if cut.is_none() => {}
                // Nobody is left who could add anything.
                None = self.handles.recv(), if cut.is_none() && self.queue.lanes().is_empty() => break,
            }
        }
        while on_their_way.next().await.is_some() {}
    }

    /// Whether an entry is to be cut now, and if so, whether with sends.
    fn cut(&self, under_way: usize, commands: usize, small: usize) -> Option<bool> {
        let lanes = self.queue.lanes();
        if lanes.is_empty() {
            return None;
        }
        let few = commands < FEW_COMMANDS_IN_FLIGHT;
        let enough = lanes.bytes() >= PIPELINE_BYTES;
        if under_way == 0 || ((few || enough) && under_way < MAX_ENTRIES_IN_FLIGHT) {
            return Some(true);
        }
        // Full entries of sends take long; what is small does not wait for their end, too.
        (enough && small == 0 && lanes.has_small()).then_some(false)
    }

    async fn gather(&mut self, with_sends: bool) -> Vec<Proposal> {
        let mut batch = Batch::new();
        let mut room = self.queue.lanes().fill(&mut batch, with_sends);
        let mut fruitless = 0;
        while room && fruitless < FRUITLESS_YIELDS {
            let before = batch.items.len();
            tokio::task::yield_now().await;
            room = self.queue.lanes().fill(&mut batch, with_sends);
            fruitless = if batch.items.len() > before {
                0
            } else {
                fruitless + 1
            };
        }
        batch.items
    }
}

async fn propose(replica: Replica, time_ms: u64, batch: Vec<Proposal>) {
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

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
use queue_core::{Reply, frame::EntryBuilder};
use raft_store::{ProposeError, Replica};
use tokio::sync::{Notify, mpsc};

use flotilla_proto::record::Command;

mod proposal;

pub use proposal::Answer;
use proposal::Proposal;

use super::{
    lanes::{Batch, Lanes, Weight},
    machine::QueueMachine,
};
use crate::limits::{
    Bounds, FEW_COMMANDS_IN_FLIGHT, FRUITLESS_YIELDS, MAX_BATCH_BYTES, MAX_BYTES_IN_FLIGHT,
    MAX_COMMAND_BYTES, MAX_ENTRIES_IN_FLIGHT, PIPELINE_BYTES,
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
    /// Commands that are one unit are too many, or have more bytes than an entry may hold: nothing was done.
    #[error(
        "{0} messages of {1} bytes in one request are too much: they are stored together or not at all, and \
         {MAX_BATCH_BYTES} bytes are the most; send them in several requests"
    )]
    BatchTooLarge(usize, usize),
    /// The catalogue here lacks deletions that the shard has carried out: nothing was done.
    #[error("this node has not caught up with the catalogue yet; ask again")]
    Behind,
    /// The disk has no room for more messages: nothing was done.
    #[error("the disk is full; free space or shorten the retention")]
    NoRoom,
    /// The node stops, or its disk failed; the command may still take effect.
    #[error("the node is stopping: {0}")]
    Stopped(String),
}

/// Handle to a shard's proposer; cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    queue: Arc<Queue>,
    machine: Arc<QueueMachine>,
    /// Dropped with the last handle, which ends the proposer.
    _handle: mpsc::Sender<Infallible>,
}

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
    pub fn start(replica: Replica, machine: Arc<QueueMachine>, bounds: Bounds) -> Self {
        let queue = Arc::new(Queue {
            lanes: Mutex::new(Lanes::new(bounds)),
            came: Notify::default(),
        });
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
    pub fn enqueue(&self, command: Command) -> Result<Answer<Reply>, SubmitError> {
        let (proposal, weight, answer) = Proposal::one(command)?;
        self.queue_up(proposal, weight)?;
        Ok(answer)
    }

    /// Queues commands for the same purpose that are one unit: all of them are in the log, in this order and with nothing
    /// between them, or none is. One reply for each.
    pub fn enqueue_all(&self, commands: Vec<Command>) -> Result<Answer<Vec<Reply>>, SubmitError> {
        plant!(BatchInSeveralEntries => return super::planted::one_by_one(self, commands));
        let (proposal, weight, answer) = Proposal::all(commands)?;
        self.queue_up(proposal, weight)?;
        Ok(answer)
    }

    fn queue_up(&self, proposal: Proposal, weight: Weight) -> Result<(), SubmitError> {
        // The shard's time runs on when this node takes the lead; what waits here did not wait for that long.
        let now_ms = self.machine.time.steady_ms();
        let queued = self.queue.lanes().push(proposal.lane(), proposal, weight, now_ms);
        queued.map_err(|_| SubmitError::Overloaded)?;
        self.queue.came.notify_one();
        Ok(())
    }
}

/// What an entry on its way had in it.
#[derive(Clone, Copy, Default)]
struct UnderWay {
    commands: usize,
    bytes: usize,
    /// 1 if it has no sends.
    small: usize,
}

/// All entries of a shard that are on their way.
#[derive(Clone, Copy, Default)]
struct AllUnderWay {
    entries: usize,
    sum: UnderWay,
}

impl AllUnderWay {
    fn begin(&mut self, entry: UnderWay) {
        self.entries += 1;
        self.sum.commands += entry.commands;
        self.sum.bytes += entry.bytes;
        self.sum.small += entry.small;
    }

    fn end(&mut self, entry: UnderWay) {
        self.entries -= 1;
        self.sum.commands -= entry.commands;
        self.sum.bytes -= entry.bytes;
        self.sum.small -= entry.small;
    }
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
        let mut all = AllUnderWay::default();
        loop {
            let cut = cut(&self.queue.lanes(), all);
            tokio::select! {
                biased;
                Some(done) = on_their_way.next() => all.end(done),
                Some(with_sends) = ready(cut), if cut.is_some() => {
                    let batch = self.gather(with_sends).await;
                    let small = usize::from(!with_sends);
                    let entry = UnderWay { commands: batch.commands, bytes: batch.bytes, small };
                    all.begin(entry);
                    let time = &self.machine.time;
                    let builder = EntryBuilder::new(time.now_ms(), time.wall_ms());
                    let proposed = propose(self.replica.clone(), builder, batch.items);
                    on_their_way.push(proposed.map(move |()| entry));
                }
                () = self.queue.came.notified(), if cut.is_none() => {}
                // Nobody is left who could add anything.
                None = self.handles.recv(), if cut.is_none() && self.queue.lanes().is_empty() => break,
            }
        }
        while on_their_way.next().await.is_some() {}
    }

    async fn gather(&mut self, with_sends: bool) -> Batch<Proposal> {
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
        batch
    }
}

/// Whether an entry is to be cut now, and if so, whether with sends.
fn cut<T>(lanes: &Lanes<T>, all: AllUnderWay) -> Option<bool> {
    if lanes.is_empty() {
        return None;
    }
    let few = all.sum.commands < FEW_COMMANDS_IN_FLIGHT;
    let enough = lanes.bytes() >= PIPELINE_BYTES;
    let room = all.entries < MAX_ENTRIES_IN_FLIGHT && all.sum.bytes < MAX_BYTES_IN_FLIGHT;
    if all.entries == 0 || ((few || enough) && room) {
        return Some(true);
    }
    // Full entries of sends take long; what is small does not wait for their end, too.
    ((enough || !room) && all.sum.small == 0 && lanes.has_small()).then_some(false)
}

async fn propose(replica: Replica, mut entry: EntryBuilder, batch: Vec<Proposal>) {
    let mut commands = 0;
    for command in batch.iter().flat_map(Proposal::commands) {
        commands = 1 + entry.push(command);
    }
    match replica.propose(entry.finish()).await {
        Ok(applied) => {
            let replies: Vec<Reply> = applied.take().expect("a queue machine answers with replies");
            assert_eq!(replies.len(), commands, "one reply for each command");
            let replies = plant!(RepliesMixedUp => [&replies[1..], &replies[..1]].concat(), else replies);
            let mut replies = replies.into_iter();
            for proposal in batch {
                proposal.answer(&mut replies);
            }
        }
        Err(error) => {
            let error = SubmitError::from(error);
            for proposal in batch {
                proposal.refuse(error.clone());
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

#[cfg(test)]
mod tests {
    use super::{super::lanes::Lane, *};

    const FULL: UnderWay = UnderWay {
        commands: 100,
        bytes: MAX_BYTES_IN_FLIGHT,
        small: 0,
    };

    fn waiting(lane: Lane, bytes: usize) -> Lanes<()> {
        let mut lanes = Lanes::default();
        lanes.push(lane, (), Weight { commands: 1, bytes }, 0).unwrap();
        lanes
    }

    fn under_way(entries: &[UnderWay]) -> AllUnderWay {
        let mut all = AllUnderWay::default();
        entries.iter().for_each(|&entry| all.begin(entry));
        all
    }

    #[test]
    fn a_shard_with_little_to_do_answers_at_once() {
        let lonely = UnderWay {
            commands: 1,
            bytes: 100,
            small: 0,
        };
        assert_eq!(cut(&waiting(Lane::Send, 100), under_way(&[])), Some(true));
        assert_eq!(cut(&waiting(Lane::Send, 100), under_way(&[lonely])), Some(true));
        assert_eq!(cut(&Lanes::<()>::default(), under_way(&[])), None);
    }

    #[test]
    fn sends_wait_for_the_bytes_before_them_and_nothing_else_does() {
        let large = PIPELINE_BYTES;
        assert_eq!(cut(&waiting(Lane::Send, large), under_way(&[FULL])), None);
        assert_eq!(cut(&waiting(Lane::Settle, 10), under_way(&[FULL])), Some(false));
        // One such entry at a time: it has room for all that comes meanwhile.
        let small = UnderWay {
            commands: 1,
            bytes: 10,
            small: 1,
        };
        assert_eq!(cut(&waiting(Lane::Settle, 10), under_way(&[FULL, small])), None);
    }

    #[test]
    fn an_entry_that_ended_leaves_nothing_behind() {
        let mut all = under_way(&[FULL]);
        all.end(FULL);
        assert_eq!((all.entries, all.sum.commands, all.sum.bytes), (0, 0, 0));
    }
}

//! Which answers with leases of push consumers were written out to their clients.
//!
//! The server renews a lease only if the answer that carried it was written out; else a message whose answer was lost would
//! be invisible for as long as its client lives. Only the node with the client's connection can tell, and it cannot tell at
//! once: bytes in a socket's buffer are not yet with the client. So an answer counts when some seconds later its connection
//! is still there, nothing on it is stuck, and the client was heard on it since. Then the node tells the leader of the lease's
//! shard, again and again until that has it in the shard's state, where the next leader finds it too (docs/adr/0009).
//!
//! Most messages are acknowledged long before: the leader marks a lease only when it would end soon, so they cost no command.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use flotilla_proto::{
    peer::{ForwardRequest, ForwardResponse, WrittenAnswer, WrittenOpen, WrittenReport},
    record::{Command, Written, WrittenLeases, command::Command as Kind},
};
use futures::future::join_all;
use prost::Message;
use queue_core::{GroupId, QueueId, Reply, limits::MAX_RENEW_LEASES};
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{Node, proposer::SubmitError, shard::DataShard};
use crate::limits::{
    AUTO_RENEW_LEASE_MS, MARK_WRITTEN_BEFORE_MS, MAX_ANSWERS_IN_REPORT, MAX_RECEIVE_BATCH,
    MAX_WRITTEN_LEASES, REPORT_PATIENCE, REPORT_WRITTEN_EVERY, WRITTEN_AFTER_MS, WRITTEN_FORGOTTEN_AFTER_MS,
    WRITTEN_HEARD_AFTER_MS,
};

/// How nodes name the request that reports answers.
pub const RPC: &str = "flotilla.Written";

/// Answers that one look at the core takes; applying waits meanwhile.
const ANSWERS_AT_ONCE: usize = 32;

/// How often a report looks whether the one before it is through.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

type Applied = oneshot::Receiver<Result<Reply, SubmitError>>;

/// The commands that mark leases of one shard, by the node that reported them: of each one at a time is on its way, so that
/// they do not pile up while the log is slow.
#[derive(Default)]
pub(super) struct Marking(Mutex<BTreeMap<u32, Applied>>);

impl Marking {
    fn is_under_way(&self, reporter: u32) -> bool {
        under_way(&mut self.lock(), reporter)
    }

    /// Queues a command, unless one is on its way. Whether it takes effect is seen when its answers are reported again.
    fn queue(&self, reporter: u32, queue: impl FnOnce() -> Result<Applied, SubmitError>) {
        let mut marking = self.lock();
        if !under_way(&mut marking, reporter)
            && let Ok(applied) = queue()
        {
            marking.insert(reporter, applied);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Applied>> {
        self.0.lock().expect("no panic while held")
    }
}

fn under_way(marking: &mut BTreeMap<u32, Applied>, reporter: u32) -> bool {
    let applied = marking.get_mut(&reporter);
    applied.is_some_and(|applied| matches!(applied.try_recv(), Err(TryRecvError::Empty)))
}

/// The connection that an answer was written to.
pub trait Line: Send + Sync + 'static {
    /// What is known of it; times are of the node's steady clock, milliseconds.
    fn sign(&self, after_ms: u64) -> Sign;
}

/// What is known of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It is closed or broken.
    Gone,
    /// Nothing came in on it since, or what was written to it is stuck.
    Silent,
    /// Something came in on it since, and nothing is stuck.
    Heard,
}

/// Answers that were written out and whose leases are not known to be over, or marked in their shard's state.
#[derive(Default)]
pub struct WrittenOut(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    answers: Vec<Answer>,
    leases: usize,
}

struct Answer {
    shard: u32,
    answer: WrittenAnswer,
    /// Nothing once the client was heard.
    line: Option<Arc<dyn Line>>,
    written_ms: u64,
}

impl Answer {
    fn leases(&self) -> usize {
        self.answer
            .leases
            .as_ref()
            .map_or(0, |leases| leases.offsets.len())
    }

    /// False if the client did not get it, as far as can be known.
    fn look(&mut self) -> bool {
        let after_ms = self.written_ms + WRITTEN_HEARD_AFTER_MS;
        match self.line.as_ref().map(|line| line.sign(after_ms)) {
            Some(Sign::Gone) => return false,
            Some(Sign::Heard) => self.line = None,
            Some(Sign::Silent) | None => {}
        }
        true
    }
}

impl WrittenOut {
    /// The last byte of an answer has left, at `now_ms`. Over the bound it is not remembered: its leases then end unrenewed.
    pub fn add(&self, shard: u32, client: u64, leases: WrittenLeases, line: Arc<dyn Line>, now_ms: u64) {
        let answer = WrittenAnswer {
            client,
            leases: Some(leases),
        };
        self.put(Answer {
            shard,
            answer,
            line: Some(line),
            written_ms: now_ms,
        });
    }

    fn put(&self, answer: Answer) {
        let mut waiting = self.lock();
        if waiting.leases + answer.leases() <= MAX_WRITTEN_LEASES {
            waiting.leases += answer.leases();
            waiting.answers.push(answer);
        }
    }

    /// Takes out what is to be reported now, by shard. What can never be is forgotten.
    fn due(&self, now_ms: u64) -> BTreeMap<u32, Vec<Answer>> {
        let mut due: BTreeMap<u32, Vec<Answer>> = BTreeMap::new();
        let mut waiting = self.lock();
        for mut answer in std::mem::take(&mut *waiting).answers {
            let age_ms = now_ms.saturating_sub(answer.written_ms);
            if age_ms >= WRITTEN_FORGOTTEN_AFTER_MS || (age_ms >= WRITTEN_AFTER_MS && !answer.look()) {
                continue;
            }
            if age_ms >= WRITTEN_AFTER_MS && answer.line.is_none() {
                due.entry(answer.shard).or_default().push(answer);
            } else {
                waiting.leases += answer.leases();
                waiting.answers.push(answer);
            }
        }
        due
    }

    /// Leases of answers that wait.
    pub fn leases(&self) -> usize {
        self.lock().leases
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().expect("no panic while held")
    }
}

/// Reports what was written out, until the node stops.
pub(super) async fn run(node: Node) {
    let mut stop = node.inner.stop.subscribe();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(Option::is_some) => return,
            () = tokio::time::sleep(REPORT_WRITTEN_EVERY) => {}
        }
        let due = node.inner.written.due(node.clock().steady_ms());
        let reports = due
            .into_iter()
            .map(|(shard, answers)| report_all(&node, shard, answers));
        join_all(reports).await;
    }
}

/// Reports answers with leases of one shard, and keeps those for the next time that are not settled.
async fn report_all(node: &Node, shard: u32, answers: Vec<Answer>) {
    let end_ms = node.clock().steady_ms() + REPORT_WRITTEN_EVERY.as_millis() as u64;
    let mut answers = answers.into_iter().peekable();
    while answers.peek().is_some() {
        let some: Vec<Answer> = answers.by_ref().take(MAX_ANSWERS_IN_REPORT).collect();
        let report = WrittenReport {
            answers: some.iter().map(|answer| answer.answer.clone()).collect(),
        };
        let open = report_to_leader(node, shard, report).await;
        // Reports of other shards wait for these.
        let ends = open.is_none() || node.clock().steady_ms() >= end_ms;
        let is_open = |at: usize| open.as_ref().is_none_or(|open| open.contains(&(at as u32)));
        let rest = if ends {
            answers.by_ref().collect()
        } else {
            Vec::new()
        };
        let kept = some.into_iter().enumerate().filter(|&(at, _)| is_open(at));
        for answer in kept.map(|(_, answer)| answer).chain(rest) {
            node.inner.written.put(answer);
        }
    }
}

/// Numbers of the answers that are to be reported again; nothing if the leader did not answer.
async fn report_to_leader(node: &Node, shard: u32, report: WrittenReport) -> Option<Vec<u32>> {
    let leader = node.leader(shard)?;
    if leader == node.id() {
        return take(node, &*node.shard(shard)?, leader, &report).await;
    }
    let bytes = Bytes::from(report.encode_to_vec());
    let answer = node.forward(leader, RPC, shard, None, bytes, REPORT_PATIENCE);
    let open = answer.await.ok()?.into_iter().next()?;
    Some(WrittenOpen::decode(open).ok()?.open)
}

/// Serves a report of the node `from`, as the leader.
pub(super) async fn reported(node: &Node, from: u32, request: ForwardRequest) -> ForwardResponse {
    let shard = node.shard(request.shard).filter(|shard| shard.leads());
    let nothing_done = ForwardResponse {
        not_leader: true,
        ..Default::default()
    };
    let (Some(shard), Ok(report)) = (shard, WrittenReport::decode(request.request)) else {
        return nothing_done;
    };
    let Some(open) = take(node, &shard, from, &report).await else {
        return nothing_done;
    };
    ForwardResponse {
        responses: vec![WrittenOpen { open }.encode_to_vec().into()],
        ..Default::default()
    }
}

/// Has what ends soon marked, and does not wait for that. What is neither over nor marked already is to be reported again;
/// nothing is done while the report before this one does not get through.
async fn take(node: &Node, shard: &DataShard, reporter: u32, report: &WrittenReport) -> Option<Vec<u32>> {
    let before = async {
        while shard.marking.is_under_way(reporter) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(REPORT_PATIENCE, before).await.ok()?;
    let (now, steady) = (shard.now_ms(), node.clock().steady_ms());
    let (mut open, mut due) = (Vec::new(), Vec::new());
    let answers: Vec<(u32, &WrittenAnswer)> =
        (0..).zip(&report.answers).take(MAX_ANSWERS_IN_REPORT).collect();
    for some in answers.chunks(ANSWERS_AT_ONCE) {
        for &(at, answer) in some {
            if node.inner.clients.has_departed(answer.client) {
                continue;
            }
            node.inner.clients.heard_elsewhere(answer.client, steady);
            let Some((leases, ends_ms)) = unmarked(shard, answer) else {
                continue;
            };
            open.push(at);
            if ends_ms < now + MARK_WRITTEN_BEFORE_MS {
                due.push(leases);
            }
        }
    }
    if !due.is_empty() {
        let written = Kind::Written(Written {
            leases: due,
            until_ms: now + AUTO_RENEW_LEASE_MS,
        });
        let command = Command {
            command: Some(written),
        };
        shard.marking.queue(reporter, || shard.proposer.enqueue(command));
    }
    Some(open)
}

/// The leases of an answer that last and are not marked, and when the first of them ends.
fn unmarked(shard: &DataShard, answer: &WrittenAnswer) -> Option<(WrittenLeases, u64)> {
    let leases = answer.leases.as_ref()?;
    let (group, queue) = (GroupId(leases.group), QueueId(leases.queue));
    let lasting: Vec<(u64, u64)> = shard.machine.read(|core| {
        let offsets = leases.offsets.iter().take(MAX_RECEIVE_BATCH);
        let rows = offsets.filter_map(|&offset| core.in_flight(group, queue, offset));
        rows.filter(|row| row.leased && row.auto_renew && !row.written && row.nonce == leases.nonce)
            .map(|row| (row.offset, row.at_ms))
            .collect()
    });
    let ends_ms = lasting.iter().map(|&(_, at_ms)| at_ms).min()?;
    let offsets = lasting.into_iter().map(|(offset, _)| offset).collect();
    Some((WrittenLeases { offsets, ..*leases }, ends_ms))
}

const _: () = assert!(MAX_ANSWERS_IN_REPORT * MAX_RECEIVE_BATCH <= MAX_RENEW_LEASES);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Heard last at this time; 0 once it is gone.
    struct Heard(AtomicU64);

    impl Line for Heard {
        fn sign(&self, after_ms: u64) -> Sign {
            match self.0.load(Ordering::SeqCst) {
                0 => Sign::Gone,
                heard if heard >= after_ms => Sign::Heard,
                _ => Sign::Silent,
            }
        }
    }

    const SENT: u64 = 10_000;
    const SOON: u64 = SENT + WRITTEN_AFTER_MS;

    fn written(lines: &[&Arc<Heard>]) -> WrittenOut {
        let written = WrittenOut::default();
        for line in lines {
            let leases = WrittenLeases {
                offsets: vec![1, 2],
                ..WrittenLeases::default()
            };
            written.add(4, 7, leases, (*line).clone(), SENT);
        }
        written
    }

    fn line(heard_ms: u64) -> Arc<Heard> {
        Arc::new(Heard(AtomicU64::new(heard_ms)))
    }

    #[test]
    fn an_answer_counts_some_seconds_later_if_the_client_was_heard_since() {
        let written = written(&[&line(SENT + WRITTEN_HEARD_AFTER_MS)]);
        assert_eq!(written.due(SOON - 1).len(), 0, "too soon");
        assert_eq!(written.due(SOON)[&4].len(), 1);
        assert_eq!(written.leases(), 0);
    }

    #[test]
    fn an_answer_on_a_connection_that_broke_right_after_it_is_forgotten() {
        let line = line(SENT + WRITTEN_HEARD_AFTER_MS);
        let written = written(&[&line]);
        line.0.store(0, Ordering::SeqCst);
        assert_eq!(written.due(SOON).len(), 0);
        assert_eq!(written.leases(), 0);
    }

    #[test]
    fn an_answer_into_silence_waits_until_the_client_is_heard() {
        let line = line(SENT + WRITTEN_HEARD_AFTER_MS - 1);
        let written = written(&[&line]);
        assert_eq!(written.due(SOON).len(), 0);
        assert_eq!(written.leases(), 2);
        line.0.store(SOON + 1, Ordering::SeqCst);
        assert_eq!(written.due(SOON + 2)[&4].len(), 1);
    }

    #[test]
    fn what_was_once_heard_needs_its_connection_no_more() {
        let line = line(SOON);
        let written = written(&[&line]);
        let due = written.due(SOON).remove(&4).unwrap();
        line.0.store(0, Ordering::SeqCst);
        due.into_iter().for_each(|answer| written.put(answer));
        assert_eq!(written.due(SOON + 1)[&4].len(), 1);
    }

    #[test]
    fn of_each_node_one_report_at_a_time_is_on_its_way_into_the_log() {
        let marking = Marking::default();
        let (first, applied) = oneshot::channel();
        marking.queue(1, || Ok(applied));
        assert!(marking.is_under_way(1) && !marking.is_under_way(2));
        marking.queue(1, || panic!("one is on its way"));
        first
            .send(Ok(Reply::Prolonged {
                changed: 1,
                more: false,
            }))
            .unwrap();
        assert!(!marking.is_under_way(1));
        let (_second, applied) = oneshot::channel();
        marking.queue(1, || Ok(applied));
        assert!(marking.is_under_way(1));
    }

    #[test]
    fn nothing_is_kept_for_ever_and_no_more_than_the_bound() {
        let silent = line(1);
        let written = written(&[&silent]);
        written.due(SENT + WRITTEN_FORGOTTEN_AFTER_MS);
        assert_eq!(written.leases(), 0);
        let many = WrittenLeases {
            offsets: vec![0; MAX_WRITTEN_LEASES],
            ..WrittenLeases::default()
        };
        written.add(4, 7, many.clone(), silent.clone(), SENT);
        written.add(4, 7, many, silent, SENT);
        assert_eq!(written.leases(), MAX_WRITTEN_LEASES);
    }
}

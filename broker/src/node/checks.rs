//! Check-backs: the leader of a shard has producers asked how transactions ended that nobody has ended.
//!
//! A command says which are asked about, and only then somebody is asked: a question that gets lost is one less, and none is one
//! too many. Whoever sends to the topic may be asked, on whatever node its stream is. Some are asked about at a time, and the next
//! after a rest: so however many transactions are open, they cost no room, and nobody is asked about all of them at once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_proto::{
    peer::{ForwardResponse, TransactionAsked, TransactionQuestion},
    record::{self, Command, StoredMessage, command},
};
use prost::Message;
use queue_core::{Half, QueueId, Reply};
use tokio::time::Instant;

use super::{
    Node,
    forward::ForwardError,
    keeper::{LOOK_EVERY, PAUSE},
    kv::{Reading, stop_reason},
    producers::{Ask, Question},
    shard::DataShard,
};
use crate::{
    limits::{ASK_PATIENCE, CHECK_EVERY, CHECKS_AT_ONCE, CHECKS_REST, FIRST_CHECK, MAX_CHECKS},
    peer::PeerError,
};

/// When producers are asked about transactions that nobody has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transactions {
    /// For the first time so long after the half message was stored, unless that says otherwise.
    pub first_check: Duration,
    /// And then so often again.
    pub check_every: Duration,
    /// So often at most.
    pub max_checks: u32,
}

impl Default for Transactions {
    fn default() -> Self {
        Self {
            first_check: FIRST_CHECK,
            check_every: CHECK_EVERY,
            max_checks: MAX_CHECKS,
        }
    }
}

/// The name under which a node asks another one to ask.
pub(super) const RPC: &str = "flotilla.CheckBack";

/// After so long a producer that had many questions to read may have read some.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Until the next are looked at, where nobody could be asked about these.
const VAIN_REST: Duration = Duration::from_millis(5);

/// Checks back some of what is due; tells how long nothing else will be.
pub(super) async fn check_back(node: &Node, shard: &Arc<DataShard>) -> Duration {
    let now_ms = shard.now_ms();
    let Some(due_ms) = shard.machine.read(|core| core.next_check()) else {
        return LOOK_EVERY;
    };
    if due_ms > now_ms {
        return Duration::from_millis(due_ms - now_ms);
    }
    plant!(ChecksForgottenByNewLeaders => if shard.replica.status().term > 2 { return LOOK_EVERY });
    // Whoever has it rings when it is done.
    let Ok(turn) = Arc::clone(&shard.asking).try_acquire_owned() else {
        return LOOK_EVERY;
    };
    let limit = shard.bounds.fire.min(CHECKS_AT_ONCE) as usize;
    let due = shard.replica.read_state(|state| {
        shard
            .machine
            .read(|core| core.due_checks(&Reading(state), now_ms, limit))
    });
    let due = match due {
        Ok(due) => due,
        Err(fault) => {
            tracing::error!(%fault, shard = shard.id, "what is to be checked back cannot be read from the state");
            node.stop(stop_reason(fault));
            return PAUSE;
        }
    };
    let rules = node.options().transactions;
    let (over, due): (Vec<_>, Vec<_>) = due.into_iter().partition(|due| due.checks >= rules.max_checks);
    let named = |halves: Vec<queue_core::DueCheck>| halves.into_iter().map(|due| due.half).collect();
    let mut given_up = None;
    if !over.is_empty() {
        let give_up = record::GiveUp { halves: named(over) };
        given_up = submit(shard, command::Command::GiveUp(give_up)).await;
    }
    if due.is_empty() {
        return match given_up {
            Some(Reply::GivenUp(1..)) => Duration::ZERO,
            _ => PAUSE,
        };
    }
    let every_ms = rules.check_every.as_millis() as u64;
    let every_ms = plant!(CheckedTooOften => every_ms / 10, else every_ms);
    let check = record::CheckBack {
        halves: named(due),
        next_ms: now_ms.saturating_add(every_ms),
    };
    let Some(Reply::CheckedBack { halves }) = submit(shard, command::Command::CheckBack(check)).await else {
        return PAUSE;
    };
    let (node, shard) = (node.clone(), Arc::clone(shard));
    tokio::spawn(async move {
        // Where there is nobody to ask nobody needs a rest, and others wait.
        let rest = match ask_about(&node, &shard, halves).await {
            true => CHECKS_REST,
            false => VAIN_REST,
        };
        tokio::time::sleep(rest).await;
        drop(turn);
        shard.machine.timer.notify_one();
    });
    LOOK_EVERY
}

async fn submit(shard: &DataShard, command: command::Command) -> Option<Reply> {
    let command = Command {
        command: Some(command),
    };
    shard.proposer.submit(command).await.ok()
}

/// One after the other, so that one message at a time is in memory for it. True if somebody may have been asked.
async fn ask_about(node: &Node, shard: &DataShard, halves: Vec<Half>) -> bool {
    // Of all of them together: those whose producers read nothing do not hold up the next.
    let until = Instant::now() + ASK_PATIENCE;
    let mut any = false;
    // Nodes where there is nobody to ask about a topic, and those that do not answer.
    let (mut nobody, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for half in halves {
        let topic = half.queue.topic();
        let nodes: Vec<u32> = node.meta().nodes().keys().copied().collect();
        let is_in_vain = |to: u32, nobody: &BTreeSet<_>, silent: &BTreeSet<_>| {
            nobody.contains(&(to, topic)) || silent.contains(&to)
        };
        if nodes.iter().all(|&to| is_in_vain(to, &nobody, &silent)) {
            continue;
        }
        let room = half.queue.waiting_room();
        let place = shard.places_now(room, vec![(half.timer, half.position)]);
        let Some(place) = place.ok().filter(|place| !place.is_empty()) else {
            continue;
        };
        let read = shard.read_at(room, place).await;
        // What cannot be read now, or was ended meanwhile, is not asked about.
        let Some((_, message)) = read.ok().and_then(|read| read.into_iter().next()) else {
            continue;
        };
        let question = Question {
            shard: shard.id,
            queue: half.queue,
            timer: half.timer,
            message,
            stored_ms: half.stored_ms,
        };
        // Another node first each time: who hangs there is not asked for ever.
        let first = half.checks as usize % nodes.len().max(1);
        for &to in nodes[first..].iter().chain(&nodes[..first]) {
            if is_in_vain(to, &nobody, &silent) {
                continue;
            }
            let said = ask_patiently(node, to, &question, until).await;
            any |= matches!(said, Said::That(Ask::Asked | Ask::Full) | Said::Unsure);
            match said {
                Said::That(Ask::Asked) => break,
                Said::That(Ask::Nobody | Ask::Full) => _ = nobody.insert((to, topic)),
                Said::NotThere => _ = silent.insert(to),
                // Perhaps somebody was asked there: then nobody else is, this time.
                Said::Unsure => {
                    silent.insert(to);
                    break;
                }
            }
        }
    }
    any
}

/// What a node says of a question.
enum Said {
    That(Ask),
    /// It heard nothing of it.
    NotThere,
    Unsure,
}

/// Producers that have many questions to read may have read some soon. Another node has the message sent to it each time: it is asked
/// once more at most.
async fn ask_patiently(node: &Node, to: u32, question: &Question, until: Instant) -> Said {
    loop {
        let said = ask_on(node, to, question).await;
        let rest = match to == node.id() {
            true => ASK_AGAIN_AFTER,
            false => ASK_PATIENCE / 2,
        };
        if !matches!(said, Said::That(Ask::Full)) || Instant::now() + rest >= until {
            return said;
        }
        tokio::time::sleep(rest).await;
    }
}

async fn ask_on(node: &Node, to: u32, question: &Question) -> Said {
    if to == node.id() {
        return Said::That(node.producers().ask(question.clone()));
    }
    let request = TransactionQuestion {
        shard: question.shard,
        queue: question.queue.0,
        timer: question.timer,
        message: question.message.encode_to_vec().into(),
        stored_ms: question.stored_ms,
    };
    let request = Bytes::from(request.encode_to_vec());
    match node.forward(to, RPC, 0, None, request, ASK_PATIENCE).await {
        Ok(responses) => {
            let answer = responses.into_iter().next();
            let answer = answer.and_then(|bytes| TransactionAsked::decode(bytes).ok());
            Said::That(match answer {
                Some(answer) if answer.asked => Ask::Asked,
                Some(answer) if answer.full => Ask::Full,
                _ => Ask::Nobody,
            })
        }
        Err(ForwardError::Peer(PeerError::NotConnected | PeerError::Overloaded)) => Said::NotThere,
        Err(ForwardError::NotLeader { unsure: false }) => Said::NotThere,
        Err(_) => Said::Unsure,
    }
}

/// Another node has a question for a producer here.
pub(super) fn asked(node: &Node, request: Bytes) -> ForwardResponse {
    let said = question_of(request).map_or(Ask::Nobody, |question| node.producers().ask(question));
    let answer = TransactionAsked {
        asked: said == Ask::Asked,
        full: said == Ask::Full,
    };
    ForwardResponse {
        responses: vec![answer.encode_to_vec().into()],
        ..Default::default()
    }
}

fn question_of(request: Bytes) -> Option<Question> {
    let request = TransactionQuestion::decode(request).ok()?;
    Some(Question {
        shard: request.shard,
        queue: QueueId(request.queue),
        timer: request.timer,
        message: StoredMessage::decode(request.message).ok()?,
        stored_ms: request.stored_ms,
    })
}

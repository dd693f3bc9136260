//! What a bad network does to requests besides losing them: some come a second time, some late, and of some the answer is lost.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use broker::peer::{Body, PeerError};
use flotilla_proto::{
    peer::SeekQueue,
    record::{MetaCommand, meta_command::Command as Kind},
};
use madsim::rand::{Rng, thread_rng};
use prost::Message;

/// What a bad network does to requests besides losing them: some come a second time, after others that were sent later, as
/// from a connection that was given up and is read to its end all the same. Clones are the same network.
#[derive(Clone, Default)]
pub struct Disorder(Arc<Mutex<f64>>);

/// How much later the second copy comes at most, milliseconds.
const STRAY_MS: u64 = 1_500;
/// There are few changes of the catalogue. Of so many the answer is lost with its connection.
pub(super) const ANSWER_LOST: f64 = 0.3;
/// So many deletions and seeks lie in a connection that was given up, and come when nobody waits for an answer any more: they say
/// what they mean, and leave alone what bears its name, or was put elsewhere, by then.
pub(super) const DELAYED: f64 = 0.5;
/// How much later they come at most, milliseconds.
pub(super) const DELAYED_MS: u64 = 4_000;

impl Disorder {
    /// From now on this share of the requests comes twice.
    pub fn set(&self, share: f64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = share;
    }

    /// Whether something happens that does in this share of all cases, while the network is bad.
    pub(super) fn happens(&self, of_all: f64) -> bool {
        let share = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        share > 0.0 && thread_rng().gen_bool(of_all)
    }

    /// How much later a request comes again, if it does.
    pub(super) fn strays(&self) -> Option<Duration> {
        let share = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let strays = share > 0.0 && thread_rng().gen_bool(share);
        strays.then(|| Duration::from_millis(thread_rng().gen_range(0..STRAY_MS)))
    }
}

/// Whether it is a change of the catalogue.
pub(super) fn is_change(body: &Body) -> bool {
    matches!(body, Body::Forward(request) if request.rpc == broker::node::catalogue::RPC)
}

/// Whether it has a topic or a consumer group deleted.
pub(super) fn deletes(body: &Body) -> bool {
    let Body::Forward(request) = body else {
        return false;
    };
    let command = is_change(body).then(|| MetaCommand::decode(request.request.clone()));
    let command = command.and_then(Result::ok).and_then(|it| it.command);
    matches!(command, Some(Kind::DeleteTopic(_) | Kind::DeleteConsumerGroup(_)))
}

/// Whether it has a consumer group put elsewhere.
pub(super) fn seeks(body: &Body) -> bool {
    let Body::Forward(request) = body else {
        return false;
    };
    let seek = (request.rpc == broker::service::SEEK).then(|| SeekQueue::decode(request.request.clone()));
    seek.is_some_and(|seek| seek.is_ok_and(|seek| !seek.only_look))
}

/// Nobody sends a change of the catalogue again when its answer is lost: he is told that nobody knows.
pub(super) fn may_stray(body: &Body) -> bool {
    !is_change(body)
}

/// A request's second copy. Its answer goes nowhere: the connection that it comes from was given up.
pub(super) fn stray(body: &Body) -> Body {
    let mut copy = body.clone();
    if let Body::Forward(request) = &mut copy
        && request.rpc == "ReceiveMessage"
    {
        request.deadline_ms = 0;
    }
    copy
}

pub(super) fn says_not_done(answer: &Result<Body, PeerError>) -> bool {
    match answer {
        Ok(Body::ForwardAnswer(said)) => said.not_leader && !said.unsure,
        // It was not sent, or not taken, so there is no copy of it on any way.
        Err(error) => matches!(error, PeerError::NotConnected | PeerError::Overloaded),
        Ok(_) => false,
    }
}

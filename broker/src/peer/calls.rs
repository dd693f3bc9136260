//! The bookkeeping of requests under way to one peer: ids, who waits for which answer, and how much
//! may be under way. Knows nothing of sockets, so that every transport (the simulator's too) has it.
//!
//! A link is *open* while a connection exists or is being made for the first time: calls queue. It is
//! *closed* while the peer is known to be dead: calls fail at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flotilla_proto::peer::Frame;
use prost::Message;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{Body, PeerError, limits};

/// What forwarded sends are called.
pub(super) const SEND_RPC: &str = "SendMessage";

/// How much may be under way, by count and by bytes.
#[derive(Debug)]
pub struct Budget {
    max_calls: usize,
    max_bytes: usize,
    used: Mutex<(usize, usize)>,
    freed: Notify,
}

impl Budget {
    /// A budget of `max_calls` requests that together encode to at most `max_bytes`.
    #[must_use]
    pub fn new(max_calls: usize, max_bytes: usize) -> Arc<Self> {
        Arc::new(Budget {
            max_calls,
            max_bytes,
            used: Mutex::new((0, 0)),
            freed: Notify::new(),
        })
    }

    /// Takes room for one request, or nothing if there is none.
    #[must_use]
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let mut used = lock(&self.used);
        if used.0 >= self.max_calls || used.1 + bytes > self.max_bytes {
            return None;
        }
        used.0 += 1;
        used.1 += bytes;
        Some(Permit {
            budget: self.clone(),
            bytes,
        })
    }

    /// Requests and bytes under way.
    #[must_use]
    pub fn used(&self) -> (usize, usize) {
        *lock(&self.used)
    }
}

/// Room taken from a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut used = lock(&self.budget.used);
        used.0 -= 1;
        used.1 -= self.bytes;
        drop(used);
        self.budget.freed.notify_one();
    }
}

/// The budgets of a peer: Raft, what nodes themselves ask, clients' sends and their other requests share none.
#[derive(Debug)]
pub struct Budgets {
    raft: Arc<Budget>,
    nodes: Arc<Budget>,
    forward: Arc<Budget>,
    sends: Arc<Budget>,
}

impl Budgets {
    /// The budgets as [`limits`] has them.
    #[must_use]
    pub fn by_limits() -> Self {
        Budgets {
            raft: Budget::new(limits::MAX_RAFT_CALLS, limits::MAX_RAFT_BYTES),
            nodes: Budget::new(limits::MAX_NODE_CALLS, limits::MAX_NODE_BYTES),
            forward: Budget::new(limits::MAX_FORWARD_CALLS, limits::MAX_FORWARD_BYTES),
            sends: Budget::new(limits::MAX_FORWARD_CALLS, limits::MAX_FORWARD_SEND_BYTES),
        }
    }

    /// Takes room for a request of `bytes` encoded bytes.
    #[must_use]
    pub fn take(&self, body: &Body, bytes: usize) -> Option<Permit> {
        match body {
            Body::Forward(request) if request.rpc == SEND_RPC => self.sends.take(bytes),
            Body::Forward(request) if request.caller.is_none() => self.nodes.take(bytes),
            Body::Forward(_) => self.forward.take(bytes),
            _ => self.raft.take(bytes),
        }
    }

    /// Ready once Raft room was given back since the last time this was ready.
    pub async fn raft_freed(&self) {
        self.raft.freed.notified().await;
    }

    #[cfg(test)]
    pub(crate) fn small(calls: usize, bytes: usize) -> Self {
        Budgets {
            raft: Budget::new(calls, bytes),
            nodes: Budget::new(calls, bytes),
            forward: Budget::new(calls, bytes),
            sends: Budget::new(calls, bytes),
        }
    }
}

/// A frame on its way out. It holds its share of the budget until it is handed to the connection, so
/// that a caller who gave up does not make room for memory that is still held.
#[derive(Debug)]
pub struct Outgoing {
    /// The frame to send.
    pub frame: Frame,
    _permit: Arc<Permit>,
}

struct Inner {
    next_id: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Result<Body, PeerError>>>,
    out: Option<mpsc::UnboundedSender<Outgoing>>,
}

/// All requests under way to one peer.
pub struct Calls {
    inner: Mutex<Inner>,
    budgets: Budgets,
}

impl Calls {
    /// Closed, nothing under way.
    #[must_use]
    pub fn new(budgets: Budgets) -> Arc<Self> {
        let inner = Inner {
            next_id: 1,
            waiting: BTreeMap::new(),
            out: None,
        };
        Arc::new(Calls {
            inner: Mutex::new(inner),
            budgets,
        })
    }

    /// Opens the link: calls from now on queue in what is returned, in call order.
    pub fn open(&self) -> mpsc::UnboundedReceiver<Outgoing> {
        let (sender, receiver) = mpsc::unbounded_channel();
        lock(&self.inner).out = Some(sender);
        receiver
    }

    /// Closes the link: everything under way fails with `why`, later calls fail at once. `why` is
    /// `NotConnected` if nothing was sent since the link was opened.
    pub fn close(&self, why: PeerError) {
        let mut inner = lock(&self.inner);
        inner.out = None;
        for (_, waiting) in std::mem::take(&mut inner.waiting) {
            let _ = waiting.send(Err(why));
        }
    }

    /// True while calls are queued or sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        lock(&self.inner).out.is_some()
    }

    /// Puts a request on its way. Does not wait: the order of calls of this is the order of arrival.
    ///
    /// # Errors
    /// `NotConnected` when closed, `Overloaded` over the budget, `Malformed` when larger than a frame.
    pub fn begin(self: &Arc<Self>, body: Body) -> Result<Call, PeerError> {
        let mut inner = lock(&self.inner);
        let Some(out) = inner.out.clone() else {
            return Err(PeerError::NotConnected);
        };
        let id = inner.next_id;
        let frame = Frame { id, body: Some(body) };
        let bytes = frame.encoded_len();
        if bytes > limits::MAX_FRAME_BYTES {
            return Err(PeerError::Malformed);
        }
        let body = frame.body.as_ref().expect("just set");
        let permit = Arc::new(self.budgets.take(body, bytes).ok_or(PeerError::Overloaded)?);
        out.send(Outgoing {
            frame,
            _permit: permit.clone(),
        })
        .map_err(|_| PeerError::NotConnected)?;
        inner.next_id += 1;
        let (sender, answer) = oneshot::channel();
        inner.waiting.insert(id, sender);
        Ok(Call {
            calls: self.clone(),
            id,
            answer,
            _permit: permit,
        })
    }

    /// Hands an answer to whoever waits for it; nobody does when the call timed out.
    pub fn finish(&self, id: u64, answer: Body) {
        let waiting = lock(&self.inner).waiting.remove(&id);
        if let Some(waiting) = waiting {
            let answer = if matches!(answer, Body::Overloaded(_)) {
                Err(PeerError::Overloaded)
            } else {
                Ok(answer)
            };
            let _ = waiting.send(answer);
        }
    }
}

/// A request under way. Dropping it forgets the answer.
pub struct Call {
    calls: Arc<Calls>,
    id: u64,
    answer: oneshot::Receiver<Result<Body, PeerError>>,
    _permit: Arc<Permit>,
}

impl Call {
    /// Waits for the answer, at most `ttl`.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn answer(self, ttl: Duration) -> Result<Body, PeerError> {
        let answer = tokio::time::timeout(ttl, self.arrival()).await;
        answer.unwrap_or(Err(PeerError::Timeout))
    }

    /// Waits for the answer, however long: for transports that keep the time themselves.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub async fn arrival(mut self) -> Result<Body, PeerError> {
        let answer = (&mut self.answer).await;
        answer.unwrap_or(Err(PeerError::Unreachable))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        lock(&self.calls.inner).waiting.remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use flotilla_proto::peer::{Caller, ForwardRequest, StatusRequest, StatusResponse};

    use super::*;

    fn status() -> Body {
        Body::Status(StatusRequest::default())
    }

    #[tokio::test]
    async fn an_answer_reaches_the_call_with_its_id() {
        let calls = Calls::new(Budgets::by_limits());
        let mut out = calls.open();
        let first = calls.begin(status()).unwrap();
        let second = calls.begin(status()).unwrap();
        let (a, b) = (
            out.recv().await.unwrap().frame.id,
            out.recv().await.unwrap().frame.id,
        );
        calls.finish(
            b,
            Body::StatusAnswer(StatusResponse {
                meta_leader: 2,
                ..Default::default()
            }),
        );
        calls.finish(
            a,
            Body::StatusAnswer(StatusResponse {
                meta_leader: 1,
                ..Default::default()
            }),
        );
        let ttl = Duration::from_secs(5);
        let leader = |body| match body {
            Body::StatusAnswer(answer) => answer.meta_leader,
            other => panic!("{other:?}"),
        };
        assert_eq!(leader(first.answer(ttl).await.unwrap()), 1);
        assert_eq!(leader(second.answer(ttl).await.unwrap()), 2);
    }

    #[tokio::test]
    async fn a_closed_link_fails_calls_at_once_and_those_under_way() {
        let calls = Calls::new(Budgets::by_limits());
        assert_eq!(calls.begin(status()).err(), Some(PeerError::NotConnected));
        let _out = calls.open();
        let call = calls.begin(status()).unwrap();
        calls.close(PeerError::Unreachable);
        assert_eq!(
            call.answer(Duration::from_secs(60)).await,
            Err(PeerError::Unreachable)
        );
        assert_eq!(calls.begin(status()).err(), Some(PeerError::NotConnected));
    }

    #[tokio::test]
    async fn the_budget_is_free_again_only_when_the_frame_has_left_and_the_caller_is_done() {
        let calls = Calls::new(Budgets::small(1, 1024));
        let mut out = calls.open();
        let call = calls.begin(status()).unwrap();
        assert_eq!(calls.begin(status()).err(), Some(PeerError::Overloaded));
        drop(call);
        assert_eq!(
            calls.begin(status()).err(),
            Some(PeerError::Overloaded),
            "the frame still waits to be sent"
        );
        drop(out.recv().await);
        assert!(calls.begin(status()).is_ok());
    }

    #[tokio::test]
    async fn forwarded_requests_never_use_up_the_budget_of_raft() {
        let calls = Calls::new(Budgets::small(1, 1024));
        let _out = calls.open();
        let forward = || Body::Forward(ForwardRequest::default());
        let _held = calls.begin(forward()).unwrap();
        assert_eq!(calls.begin(forward()).err(), Some(PeerError::Overloaded));
        assert!(calls.begin(status()).is_ok());
    }

    #[tokio::test]
    async fn forwarded_sends_never_use_up_the_room_of_acknowledgements() {
        let calls = Calls::new(Budgets::small(1, 1024));
        let _out = calls.open();
        let forward = |rpc: &str| {
            Body::Forward(ForwardRequest {
                rpc: rpc.into(),
                ..Default::default()
            })
        };
        let _held = calls.begin(forward(SEND_RPC)).unwrap();
        assert_eq!(calls.begin(forward(SEND_RPC)).err(), Some(PeerError::Overloaded));
        assert!(calls.begin(forward("AckMessage")).is_ok());
    }

    #[tokio::test]
    async fn requests_of_clients_never_keep_back_what_nodes_ask_each_other() {
        let calls = Calls::new(Budgets::small(1, 1024));
        let _out = calls.open();
        let forward = |caller| {
            Body::Forward(ForwardRequest {
                rpc: "AckMessage".into(),
                caller,
                ..Default::default()
            })
        };
        let client = || Some(Caller::default());
        let _held = calls.begin(forward(client())).unwrap();
        assert_eq!(calls.begin(forward(client())).err(), Some(PeerError::Overloaded));
        let _signs = calls.begin(forward(None)).unwrap();
        assert_eq!(calls.begin(forward(None)).err(), Some(PeerError::Overloaded));
    }

    #[test]
    fn a_request_larger_than_a_frame_is_refused_before_it_is_sent() {
        let calls = Calls::new(Budgets::by_limits());
        let _out = calls.open();
        let request = vec![0_u8; limits::MAX_FRAME_BYTES].into();
        let body = Body::Forward(ForwardRequest {
            request,
            ..Default::default()
        });
        assert_eq!(calls.begin(body).err(), Some(PeerError::Malformed));
    }
}

//! Requests and answers over the simulated network: the simulator's form of `broker::peer`.
//!
//! Frames travel encoded, as they do between real nodes, on connections of madsim's network: ordered,
//! with latency, cut by partitions and by the death of either side. The rules are those of
//! `peer/stream.rs`, and the bookkeeping is the same code. Clients use it, too, with a client port.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use broker::{
    node::written::Sign,
    peer::{
        Body, HelloSource, PROTOCOL_VERSION, PeerError, PeerTransport, Seat,
        calls::{Budgets, Calls, Outgoing},
        is_request, limits,
    },
    service::written::Carried,
};
use bytes::Bytes;
use flotilla_proto::peer::{Frame, Hello};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use madsim::{
    net::{Endpoint, Receiver, Sender},
    rand::{Rng, thread_rng},
};
use prost::Message;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    quiet::{Alarm, Quiet, within},
    trace::Trace,
};

mod disorder;

pub use disorder::Disorder;
use disorder::{
    ANSWER_LOST, DELAYED, DELAYED_MS, deletes, is_change, may_stray, says_not_done, seeks, stray,
};

/// A line that is silent for so long while an answer is waited for is broken.
const SILENCE: Duration = Duration::from_secs(5);
const _: () = assert!(
    SILENCE.as_secs() == limits::KEEP_ALIVE_INTERVAL.as_secs() + limits::KEEP_ALIVE_TIMEOUT.as_secs(),
    "as real links have it"
);

/// The links of one caller to all others.
pub struct SimTransport {
    me: HelloSource,
    disorder: Disorder,
    trace: Trace,
    links: Mutex<BTreeMap<u32, Link>>,
}

struct Link {
    address: String,
    calls: Arc<Calls>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        self.calls.close(PeerError::Unreachable);
    }
}

impl SimTransport {
    /// Knows nobody until [`PeerTransport::set_peers`].
    #[must_use]
    pub fn new(me: HelloSource, disorder: Disorder, trace: Trace) -> Arc<Self> {
        Arc::new(SimTransport {
            me,
            disorder,
            trace,
            links: Mutex::new(BTreeMap::new()),
        })
    }

    fn link(&self, node: u32, address: String) -> Link {
        let calls = Calls::new(Budgets::by_limits());
        let queue = calls.open();
        let line = Line {
            node,
            me: self.me.clone(),
            trace: self.trace.clone(),
            calls: calls.clone(),
        };
        let to: SocketAddr = address.parse().expect("simulated nodes have numeric addresses");
        Link {
            address,
            calls,
            task: tokio::spawn(line.run(to, queue)),
        }
    }
}

#[async_trait]
impl PeerTransport for SimTransport {
    async fn call(&self, node: u32, body: Body, ttl: Duration) -> Result<Body, PeerError> {
        let calls = {
            let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            links
                .get(&node)
                .map(|link| link.calls.clone())
                .ok_or(PeerError::NotConnected)?
        };
        if (deletes(&body) || seeks(&body)) && self.disorder.happens(DELAYED) {
            let later = Duration::from_millis(thread_rng().gen_range(0..DELAYED_MS));
            tokio::spawn(async move {
                sleep(later).await;
                let _ = ask(&calls, body, ttl).await;
            });
            return Err(PeerError::Unreachable);
        }
        let strays = self.disorder.strays().filter(|_| may_stray(&body));
        let copy = strays.map(|later| (later, stray(&body)));
        let loses = is_change(&body) && self.disorder.happens(ANSWER_LOST);
        let answer = ask(&calls, body, ttl).await;
        if loses {
            return Err(PeerError::Unreachable);
        }
        // Not before the first has its answer: else that could tell what the second did, and no connection does this. And
        // not after one that says that nothing was done: whoever hears that asks again, and must not find it done.
        if let Some((later, body)) = copy.filter(|_| !says_not_done(&answer)) {
            tokio::spawn(async move {
                sleep(later).await;
                // Whoever waited for this answer has gone.
                let _ = ask(&calls, body, ttl).await;
            });
        }
        answer
    }

    fn set_peers(&self, mut addresses: BTreeMap<u32, String>) {
        addresses.remove(&self.me.node());
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|node, link| addresses.get(node) == Some(&link.address));
        for (node, address) in addresses {
            links.entry(node).or_insert_with(|| self.link(node, address));
        }
    }
}

/// One request. Calls that have their answers leave no timers behind.
async fn ask(calls: &Arc<Calls>, body: Body, ttl: Duration) -> Result<Body, PeerError> {
    let call = calls.begin(body)?;
    within(ttl, call.arrival())
        .await
        .unwrap_or(Err(PeerError::Timeout))
}

struct Broken;

struct Line {
    node: u32,
    me: HelloSource,
    trace: Trace,
    calls: Arc<Calls>,
}

impl Line {
    async fn run(self, to: SocketAddr, queue: mpsc::UnboundedReceiver<Outgoing>) {
        let mut queue = Some(queue);
        let mut backoff = limits::MIN_BACKOFF;
        loop {
            let mut greeted = false;
            let Err(Broken) = self.connect(to, queue.take(), &mut greeted).await;
            self.calls.close(if greeted {
                PeerError::Unreachable
            } else {
                PeerError::NotConnected
            });
            if greeted {
                queue = Some(self.calls.open());
                backoff = limits::MIN_BACKOFF;
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(limits::MAX_BACKOFF);
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the simulated tokio's Instant is std's, on a clock that madsim sets"
    )]
    async fn connect(
        &self,
        to: SocketAddr,
        queue: Option<mpsc::UnboundedReceiver<Outgoing>>,
        greeted: &mut bool,
    ) -> Result<std::convert::Infallible, Broken> {
        let greeting = timeout(limits::HANDSHAKE_TIMEOUT, self.greet(to)).await;
        let (wire, mut answers, _seat) = greeting.map_err(|_| Broken)??;
        *greeted = true;
        let mut queue = queue.unwrap_or_else(|| self.calls.open());
        // As HTTP/2 does it on real links: when nothing comes back for a while, though something should, the other side is asked
        // whether it lives. Answers may be slow; a line on which not even that is answered is broken.
        let (mut waiting, mut heard) = (0_u64, Instant::now());
        let mut asked = false;
        let mut silence = Alarm::after(limits::KEEP_ALIVE_INTERVAL);
        loop {
            tokio::select! {
                biased;
                next = queue.recv() => {
                    if waiting == 0 {
                        heard = Instant::now();
                    }
                    waiting += 1;
                    wire.send(next.ok_or(Broken)?.frame).await?;
                }
                () = &mut silence, if waiting > 0 => {
                    let silent = heard.elapsed();
                    if silent >= SILENCE {
                        return Err(Broken);
                    }
                    if silent >= limits::KEEP_ALIVE_INTERVAL && !asked {
                        asked = true;
                        wire.send(hello(self.me.hello().ok_or(Broken)?)).await?;
                    }
                    let next = if asked { SILENCE } else { limits::KEEP_ALIVE_INTERVAL };
                    silence = Alarm::after(next.saturating_sub(silent));
                }
                answer = wire.receive(&mut answers) => {
                    let Frame { id, body: Some(body) } = answer? else { return Err(Broken) };
                    (heard, asked) = (Instant::now(), false);
                    if matches!(body, Body::Hello(_)) {
                        continue;
                    }
                    waiting = waiting.saturating_sub(1);
                    if is_request(&body) {
                        return Err(Broken);
                    }
                    self.calls.finish(id, body);
                }
            }
        }
    }

    async fn greet(&self, to: SocketAddr) -> Result<(Wire, Quiet<Receiver>, Seat), Broken> {
        let me = self.me.hello().ok_or(Broken)?;
        let endpoint = Endpoint::bind("0.0.0.0:0").await.map_err(|_| Broken)?;
        let (sender, receiver) = endpoint.connect1(to).await.map_err(|_| Broken)?;
        let mut receiver = Quiet::new(receiver);
        let wire = Wire {
            from: me.node,
            to: self.node,
            sender,
            trace: self.trace.clone(),
        };
        wire.send(hello(me)).await?;
        match wire.receive(&mut receiver).await?.body {
            Some(Body::Hello(it)) if it.version == PROTOCOL_VERSION && it.node == self.node => {
                if it.refused.is_some() {
                    self.me.refused(&it);
                    return Err(Broken);
                }
                let seat = self.me.meet(&it).map_err(|_| Broken)?;
                Ok((wire, receiver, seat))
            }
            _ => Err(Broken),
        }
    }
}

fn hello(me: Hello) -> Frame {
    Frame {
        id: 0,
        body: Some(Body::Hello(me)),
    }
}

/// One end of a connection; everything on it is in the trace, when it leaves and when it arrives.
struct Wire {
    from: u32,
    to: u32,
    sender: Sender,
    trace: Trace,
}

impl Wire {
    async fn send(&self, frame: Frame) -> Result<(), Broken> {
        // In place: a vector that grows byte by byte costs twice as much.
        let mut bytes = vec![0; frame.encoded_len()];
        frame.encode(&mut &mut bytes[..]).map_err(|_| Broken)?;
        let bytes = Bytes::from(bytes);
        self.trace
            .event("send", &[self.from.into(), self.to.into()], &bytes);
        self.sender.send(Box::new(bytes)).await.map_err(|_| Broken)
    }

    async fn receive(&self, receiver: &mut Quiet<Receiver>) -> Result<Frame, Broken> {
        let bytes = receiver.next().await.and_then(Result::ok).ok_or(Broken)?;
        let bytes = bytes.downcast::<Bytes>().map_err(|_| Broken)?;
        self.trace
            .event("receive", &[self.to.into(), self.from.into()], &bytes);
        Frame::decode(*bytes).map_err(|_| Broken)
    }
}

/// What a machine does with requests that reach a port of it.
pub trait Serve: Send + Sync + 'static {
    /// As a node answers its peers; with what is to be told when the answer was written out.
    fn serve(&self, from: &Hello, body: Body) -> BoxFuture<'static, (Body, Option<Carried>)>;

    /// The machine's steady clock, milliseconds.
    fn steady_ms(&self) -> u64;
}

/// The server's end of a connection, as it tells whether what it wrote arrived.
#[derive(Default)]
struct SimLine {
    heard_ms: AtomicU64,
    gone: AtomicBool,
}

impl broker::node::written::Line for SimLine {
    fn sign(&self, after_ms: u64) -> Sign {
        if self.gone.load(Ordering::SeqCst) {
            Sign::Gone
        } else if self.heard_ms.load(Ordering::SeqCst) >= after_ms {
            Sign::Heard
        } else {
            Sign::Silent
        }
    }
}

/// Dropped with the connection.
struct EndOfLine(Arc<SimLine>);

impl Drop for EndOfLine {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::SeqCst);
    }
}

/// Serves callers on a port of this machine, for as long as it lives.
pub async fn serve(address: SocketAddr, me: HelloSource, handler: Arc<dyn Serve>, trace: Trace) {
    let endpoint = Endpoint::bind(address).await.expect("the port is free");
    while let Ok((sender, receiver, _)) = endpoint.accept1().await {
        let wire = Wire {
            from: me.node(),
            to: 0,
            sender,
            trace: trace.clone(),
        };
        let (me, handler) = (me.clone(), handler.clone());
        tokio::spawn(async move {
            let Err(Broken) = answer_all(wire, Quiet::new(receiver), me, handler).await;
        });
    }
}

async fn answer_all(
    mut wire: Wire,
    mut receiver: Quiet<Receiver>,
    me: HelloSource,
    handler: Arc<dyn Serve>,
) -> Result<std::convert::Infallible, Broken> {
    let first = timeout(limits::HANDSHAKE_TIMEOUT, wire.receive(&mut receiver))
        .await
        .map_err(|_| Broken)??;
    let Some(Body::Hello(from)) = first.body else {
        return Err(Broken);
    };
    if from.version != PROTOCOL_VERSION || from.node == 0 {
        return Err(Broken);
    }
    wire.to = from.node;
    let _seat = match me.meet(&from) {
        Ok(seat) => seat,
        Err(refusal) => {
            wire.send(hello(*refusal)).await?;
            return Err(Broken);
        }
    };
    wire.send(hello(me.hello().ok_or(Broken)?)).await?;
    let end = EndOfLine(Arc::default());
    let line: Arc<dyn broker::node::written::Line> = end.0.clone();
    let mut running: FuturesUnordered<BoxFuture<'static, Option<Answer>>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(answer) = running.next(), if !running.is_empty() => {
                if let Some((answer, carried)) = answer {
                    wire.send(answer).await?;
                    if let Some(carried) = carried {
                        carried.written(&line);
                    }
                }
            }
            request = wire.receive(&mut receiver) => {
                let Frame { id, body: Some(body) } = request? else { return Err(Broken) };
                end.0.heard_ms.store(handler.steady_ms(), Ordering::SeqCst);
                if matches!(body, Body::Hello(_)) {
                    wire.send(hello(me.hello().ok_or(Broken)?)).await?;
                    continue;
                }
                if !is_request(&body) {
                    return Err(Broken);
                }
                let forward = matches!(body, Body::Forward(_));
                let answer = handler.serve(&from, body);
                running.push(if forward {
                    Box::pin(async move { Some(framed(id, answer.await)) })
                } else {
                    let task = tokio::spawn(answer);
                    Box::pin(async move { Some(framed(id, task.await.ok()?)) })
                });
            }
        }
    }
}

/// A frame on its way out, with what is to be told when it has left.
type Answer = (Frame, Option<Carried>);

fn framed(id: u64, (body, carried): (Body, Option<Carried>)) -> Answer {
    let frame = Frame { id, body: Some(body) };
    (frame, carried)
}

#[cfg(test)]
mod tests;

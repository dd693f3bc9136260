//! Calls between simulated nodes: their order, and what a death does to them.

use std::sync::atomic::AtomicU32;

use broker::peer::Body;
use flotilla_proto::peer::{ForwardRequest, StatusRequest, StatusResponse};
use futures::{FutureExt, future::join_all};
use madsim::runtime::{Handle, NodeHandle};

use super::*;

const TTL: Duration = Duration::from_secs(30);

/// Counts lives; answers status requests at once, with the number of those before, and others never.
struct Counter(AtomicU32);

impl Serve for Counter {
    fn steady_ms(&self) -> u64 {
        0
    }

    fn serve(&self, _: &Hello, body: Body) -> BoxFuture<'static, (Body, Option<Carried>)> {
        let count = self.0.fetch_add(1, Ordering::SeqCst);
        if matches!(body, Body::Forward(_)) {
            return futures::future::pending().boxed();
        }
        let answer = StatusResponse {
            meta_leader: count,
            ..StatusResponse::default()
        };
        async move { (Body::StatusAnswer(answer), None) }.boxed()
    }
}

fn source(node: u32) -> HelloSource {
    Arc::new(move || Hello {
        version: PROTOCOL_VERSION,
        node,
        ..Hello::default()
    })
}

fn machine(trace: &Trace) -> NodeHandle {
    let address: SocketAddr = "10.0.0.2:8083".parse().expect("an address");
    let trace = trace.clone();
    let life = move || {
        serve(
            address,
            source(2),
            Arc::new(Counter(AtomicU32::new(0))),
            trace.clone(),
        )
    };
    Handle::current()
        .create_node()
        .ip(address.ip())
        .init(life)
        .build()
}

async fn call(transport: &SimTransport) -> Result<u32, PeerError> {
    match transport
        .call(2, Body::Status(StatusRequest::default()), TTL)
        .await?
    {
        Body::StatusAnswer(answer) => Ok(answer.meta_leader),
        _ => Err(PeerError::Malformed),
    }
}

/// The caller's side; the supervisor of a simulation has no address, so it needs a machine too.
fn caller(trace: &Trace) -> (NodeHandle, Arc<SimTransport>) {
    let ip = "10.0.0.1".parse().expect("an address");
    (
        Handle::current().create_node().ip(ip).build(),
        SimTransport::new(source(1), Disorder::default(), trace.clone()),
    )
}

fn peers() -> BTreeMap<u32, String> {
    BTreeMap::from([(1, "10.0.0.1:8083".to_owned()), (2, "10.0.0.2:8083".to_owned())])
}

#[madsim::test]
async fn calls_arrive_in_order_and_are_in_the_trace() {
    let trace = Trace::new(None).expect("no file");
    let _server = machine(&trace);
    let (machine, transport) = caller(&trace);
    let answers = machine.spawn(async move {
        transport.set_peers(peers());
        join_all((0..500).map(|_| call(&transport))).await
    });
    let answers: Vec<u32> = answers
        .await
        .expect("no panic")
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(answers, (0..500).collect::<Vec<_>>());
    assert!(trace.digest().events >= 2 * 2 * 500);
}

#[madsim::test]
async fn a_slow_answer_breaks_no_line() {
    let trace = Trace::new(None).expect("no file");
    let _server = machine(&trace);
    let (machine, transport) = caller(&trace);
    let calling = machine.spawn(async move {
        transport.set_peers(peers());
        assert_eq!(call(&transport).await, Ok(0));
        let never = Body::Forward(ForwardRequest::default());
        assert_eq!(
            transport.call(2, never, 4 * SILENCE).await,
            Err(PeerError::Timeout)
        );
    });
    calling.await.expect("no panic");
}

#[madsim::test]
async fn death_fails_what_is_under_way_and_a_new_life_is_found() {
    let trace = Trace::new(None).expect("no file");
    let server = machine(&trace);
    let (machine, transport) = caller(&trace);
    let calling = machine.spawn(async move {
        transport.set_peers(peers());
        assert_eq!(call(&transport).await, Ok(0));
        let never = Body::Forward(ForwardRequest::default());
        let hour = Duration::from_secs(3600);
        assert_eq!(transport.call(2, never, hour).await, Err(PeerError::Unreachable));
        while call(&transport).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(call(&transport).await, Ok(1));
        assert_eq!(
            transport
                .call(1, Body::Status(StatusRequest::default()), TTL)
                .await,
            Err(PeerError::NotConnected)
        );
    });
    sleep(Duration::from_secs(1)).await;
    Handle::current().kill(server.id());
    sleep(Duration::from_secs(5)).await;
    Handle::current().restart(server.id());
    calling.await.expect("no panic");
}

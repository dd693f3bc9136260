//! Nodes that do not talk to each other, and say why.

use super::*;

/// Node `number`, which talks to nobody of a cluster other than 7, and notes who refuses it.
struct Choosy {
    number: u32,
    refused: Mutex<Option<Stranger>>,
}

impl Choosy {
    fn new(number: u32) -> Arc<Choosy> {
        Arc::new(Choosy {
            number,
            refused: Mutex::default(),
        })
    }
}

impl Greeter for Choosy {
    fn node(&self) -> u32 {
        self.number
    }

    fn hello(&self) -> Option<Hello> {
        Some(Hello {
            cluster: 7,
            ..hello(self.number)
        })
    }

    fn meet(&self, other: &Hello) -> Result<Seat, Box<Hello>> {
        if other.cluster == 7 {
            return Ok(Box::new(()));
        }
        let stranger = Stranger {
            message: format!("node {} is of cluster {}", other.node, other.cluster),
            ..Stranger::default()
        };
        Err(Box::new(Hello {
            refused: Some(stranger),
            ..self.hello().unwrap()
        }))
    }

    fn refused(&self, by: &Hello) {
        *self.refused.lock().unwrap() = by.refused.clone();
    }
}

fn of_cluster_8(number: u32) -> HelloSource {
    Arc::new(move || Hello {
        cluster: 8,
        ..hello(number)
    })
}

#[tokio::test]
async fn a_stranger_that_calls_is_told_why_and_nothing_of_it_is_handled() {
    let handler = Recorder::new(0);
    let served = Served::greeting("127.0.0.1:0".parse().unwrap(), Choosy::new(2), handler.clone());
    let frames = vec![frame(0, Body::Hello(hello(1))), frame(1, raft(5))];
    let answers = timeout(TTL, raw(served.address, frames))
        .await
        .expect("the stream ends")
        .unwrap();
    let [
        Frame {
            body: Some(Body::Hello(answer)),
            ..
        },
    ] = answers.as_slice()
    else {
        panic!("{answers:?}")
    };
    assert_eq!(answer.refused.as_ref().unwrap().message, "node 1 is of cluster 0");
    assert!(handler.arrived().is_empty());
    served.stop().await;
}

#[tokio::test]
async fn a_node_that_is_refused_hears_why_and_sends_nothing() {
    let handler = Recorder::new(0);
    let served = Served::greeting("127.0.0.1:0".parse().unwrap(), Choosy::new(2), handler.clone());
    let foreign = StreamTransport::new(of_cluster_8(1));
    foreign.set_peers(BTreeMap::from([(2, served.address.to_string())]));
    assert_eq!(foreign.call(2, raft(5), TTL).await, Err(PeerError::NotConnected));
    served.stop().await;

    let served = Served::greeting("127.0.0.1:0".parse().unwrap(), of_cluster_8(2), handler.clone());
    let me = Choosy::new(1);
    let transport = StreamTransport::new(me.clone());
    transport.set_peers(BTreeMap::from([(2, served.address.to_string())]));
    assert_eq!(
        transport.call(2, raft(5), TTL).await,
        Err(PeerError::NotConnected)
    );
    assert_eq!(
        *me.refused.lock().unwrap(),
        None,
        "the other one has nothing against it"
    );
    served.stop().await;
    assert!(handler.arrived().is_empty());
}

#[tokio::test]
async fn who_refuses_a_node_is_known_to_it() {
    let served = Served::greeting("127.0.0.1:0".parse().unwrap(), Choosy::new(2), Recorder::new(0));
    /// Of cluster 8, and curious.
    struct Foreign(Arc<Choosy>);
    impl Greeter for Foreign {
        fn node(&self) -> u32 {
            1
        }
        fn hello(&self) -> Option<Hello> {
            of_cluster_8(1).hello()
        }
        fn refused(&self, by: &Hello) {
            self.0.refused(by);
        }
    }
    let notes = Choosy::new(1);
    let transport = StreamTransport::new(Arc::new(Foreign(notes.clone())));
    transport.set_peers(BTreeMap::from([(2, served.address.to_string())]));
    assert_eq!(
        transport.call(2, raft(5), TTL).await,
        Err(PeerError::NotConnected)
    );
    let told = notes.refused.lock().unwrap().clone();
    assert_eq!(told.unwrap().message, "node 1 is of cluster 8");
    served.stop().await;
}

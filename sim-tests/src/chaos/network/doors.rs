//! The doors through which all clients come: one TCP proxy of ours before each node, which cuts connections as bad networks,
//! load balancers and phones do: in the middle of a request, in the middle of an answer, or so that what was asked for is done
//! and its answer is lost. Nobody says good-bye then.

use std::{
    io,
    net::Ipv4Addr,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    time::{sleep, timeout},
};

use super::super::random::Random;

/// A node that cannot be reached within this is not reached.
const CONNECT: Duration = Duration::from_secs(1);
/// How long a connection lives while connections are cut, milliseconds.
const LIVES_MS: Range<u64> = 30..2_500;
/// From the moment that a cut begins until both ends are told, milliseconds: it waits for something to be in its middle.
const WAITS_MS: Range<u64> = 50..1_500;
/// Where only the client is told, its node is told so much later, milliseconds.
const HANGS_MS: Range<u64> = 1_000..8_000;
/// Bytes that are carried at once.
const PORTION: usize = 16 << 10;

/// How a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// At once, wherever it is.
    Plain,
    /// In the middle of what the client says.
    MidRequest,
    /// In the middle of what the node says.
    MidAnswer,
    /// What the client says arrives for a while, and nothing of what the node says.
    Answers,
    /// As `Answers`, and the node's end stays open, and silent.
    Hangs,
}

const CUTS: [Cut; 5] = [
    Cut::Plain,
    Cut::MidRequest,
    Cut::MidAnswer,
    Cut::Answers,
    Cut::Hangs,
];

/// The doors of a run. They end with the program.
pub(in crate::chaos) struct Doors {
    addresses: Vec<String>,
    shared: Arc<Shared>,
}

struct Shared {
    cutting: watch::Sender<bool>,
    cuts: AtomicU64,
    random: Mutex<Random>,
}

/// The two ways of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Requests,
    Answers,
}

impl Doors {
    /// A door before each of these addresses, in their order, on the clients' machine.
    pub(in crate::chaos) async fn make(
        machine: Ipv4Addr,
        targets: &[String],
        random: &mut Random,
    ) -> io::Result<Doors> {
        let shared = Arc::new(Shared {
            cutting: watch::Sender::new(false),
            cuts: AtomicU64::new(0),
            random: Mutex::new(random.fork()),
        });
        let mut addresses = Vec::new();
        for target in targets {
            let listener = TcpListener::bind((machine, 0)).await?;
            addresses.push(listener.local_addr()?.to_string());
            tokio::spawn(listen(shared.clone(), listener, target.clone()));
        }
        Ok(Doors { addresses, shared })
    }

    /// Where clients find a node; nodes are numbered from 1.
    pub(in crate::chaos) fn address(&self, node: u32) -> String {
        self.addresses[node as usize - 1].clone()
    }

    /// From now on every connection is cut soon, or none.
    pub(in crate::chaos) fn cut(&self, cutting: bool) {
        self.shared.cutting.send_replace(cutting);
    }

    /// Connections that were cut so far.
    pub(in crate::chaos) fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

async fn listen(shared: Arc<Shared>, listener: TcpListener, target: String) {
    loop {
        // An error concerns one connection, which is the client's to make again.
        if let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(carry(shared.clone(), socket, target.clone()));
        }
    }
}

/// One connection, until one of its ends closes it, or it is cut.
async fn carry(shared: Arc<Shared>, mut client: TcpStream, target: String) {
    let Ok(Ok(mut node)) = timeout(CONNECT, TcpStream::connect(target)).await else {
        return;
    };
    // What is small is not to wait; the options of a fresh socket can be set.
    let _ = (client.set_nodelay(true), node.set_nodelay(true));
    let fate = watch::Sender::new(None);
    let cut = async {
        let cut = shared.fate().await;
        fate.send_replace(Some(cut));
        if cut != Cut::Plain {
            sleep(shared.draw(WAITS_MS)).await;
        }
        true
    };
    let (from_client, to_client) = client.split();
    let (from_node, to_node) = node.split();
    let is_cut = tokio::select! {
        is_cut = way(Way::Requests, &fate, from_client, to_node) => is_cut,
        is_cut = way(Way::Answers, &fate, from_node, to_client) => is_cut,
        is_cut = cut => is_cut,
    };
    if !is_cut {
        return;
    }
    shared.cuts.fetch_add(1, Ordering::SeqCst);
    reset(client);
    if *fate.borrow() == Some(Cut::Hangs) {
        sleep(shared.draw(HANGS_MS)).await;
    }
    reset(node);
}

/// Ends a connection without a good-bye.
fn reset(socket: TcpStream) {
    // Without it the end is an orderly one, which is not wrong either.
    let _ = socket.set_zero_linger();
}

/// One way of a connection, until it ends; true if a cut ended it.
async fn way(
    way: Way,
    fate: &watch::Sender<Option<Cut>>,
    mut input: ReadHalf<'_>,
    mut output: WriteHalf<'_>,
) -> bool {
    let mut portion = vec![0; PORTION];
    loop {
        let Ok(length @ 1..) = input.read(&mut portion).await else {
            return false;
        };
        let cut = *fate.borrow();
        let arrives = match (way, cut) {
            (Way::Requests, Some(Cut::MidRequest)) | (Way::Answers, Some(Cut::MidAnswer)) => length / 2,
            (Way::Answers, Some(Cut::Answers | Cut::Hangs)) => 0,
            _ => length,
        };
        if output.write_all(&portion[..arrives]).await.is_err() {
            return false;
        }
        if arrives > 0 && arrives < length {
            return true;
        }
    }
}

impl Shared {
    /// Waits until a connection is to be cut; how.
    async fn fate(&self) -> Cut {
        let mut cutting = self.cutting.subscribe();
        loop {
            // The sender lives as long as the program.
            let _ = cutting.wait_for(|cutting| *cutting).await;
            let ended = timeout(self.draw(LIVES_MS), cutting.wait_for(|cutting| !*cutting)).await;
            if ended.is_err() {
                return self.random().pick(&CUTS);
            }
        }
    }

    fn draw(&self, ms: Range<u64>) -> Duration {
        self.random().millis(ms)
    }

    fn random(&self) -> MutexGuard<'_, Random> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A node that answers every byte, until its connection ends; how often it was asked in all.
    async fn node(asked: Arc<AtomicU64>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let asked = asked.clone();
                tokio::spawn(async move {
                    let mut byte = [0];
                    while socket.read_exact(&mut byte).await.is_ok() {
                        asked.fetch_add(1, Ordering::SeqCst);
                        if socket.write_all(&byte).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn connections_are_cut_while_it_is_wanted_and_some_answers_are_lost_of_what_was_done() {
        let asked = Arc::<AtomicU64>::default();
        let doors = Doors::make(
            Ipv4Addr::LOCALHOST,
            &[node(asked.clone()).await],
            &mut Random::new(1),
        )
        .await
        .expect("there are free ports");
        let (mut answered, mut byte) = (0, [0]);
        let mut talk = async || {
            let mut socket = TcpStream::connect(doors.address(1)).await.expect("it listens");
            loop {
                let lost =
                    socket.write_all(b"x").await.is_err() || socket.read_exact(&mut byte).await.is_err();
                if lost {
                    return;
                }
                answered += 1;
                sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(
            timeout(Duration::from_millis(200), talk()).await.is_err(),
            "nothing is cut"
        );
        doors.cut(true);
        let lost = async {
            while doors.cuts() < 20 {
                talk().await;
            }
        };
        timeout(SOON * 3, lost).await.expect("in time");
        assert!(
            answered > 0 && asked.load(Ordering::SeqCst) > answered,
            "answers are lost"
        );
    }
}

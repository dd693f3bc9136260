//! Every node behind a TCP proxy of ours, where network namespaces are not allowed.
//!
//! A proxy finds out which node a connection comes from, and treats each direction as the link that it is. What is cut is
//! withheld and arrives when the link is whole again, as TCP would repeat it; what is lost comes a repetition later. Clients
//! reach the nodes directly: here they are not cut off with an isolated node.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

use super::{super::random::Random, Network, Place, Weather, owner};

/// TCP's shortest time before it repeats what was lost.
const REPETITION: Duration = Duration::from_millis(200);
/// The delay of a slow link, milliseconds.
const DELAY_MS: std::ops::Range<u64> = 40..120;
/// Bytes that are carried at once, and how many such portions may be on their way on a link.
const PORTION: usize = 16 << 10;
const PORTIONS: usize = 64;

/// The proxies of a run. They end with the program.
pub(super) struct Proxies {
    places: BTreeMap<u32, Place>,
    shared: Arc<Shared>,
}

struct Shared {
    weather: watch::Sender<Weather>,
    /// By node.
    processes: Mutex<BTreeMap<u32, u32>>,
    random: Mutex<Random>,
}

impl Proxies {
    pub(super) async fn make(nodes: u32, random: &mut Random) -> io::Result<Proxies> {
        let shared = Arc::new(Shared {
            weather: watch::Sender::new(Weather::default()),
            processes: Mutex::default(),
            random: Mutex::new(random.fork()),
        });
        let mut places = BTreeMap::new();
        for node in 1..=nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let peers = free_port()?;
            let place = Place {
                clients: free_port()?,
                http: free_port()?,
                peers: peers.clone(),
                peers_listed: listener.local_addr()?.to_string(),
            };
            places.insert(node, place);
            tokio::spawn(listen(shared.clone(), node, listener, peers));
        }
        Ok(Proxies { places, shared })
    }
}

/// An address nobody listens on now.
fn free_port() -> io::Result<String> {
    let probe = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(probe.local_addr()?.to_string())
}

impl Network for Proxies {
    fn describe(&self) -> String {
        "TCP proxies between the nodes".into()
    }

    fn slowness(&self) -> &'static str {
        "bytes take 40 to 120 ms"
    }

    fn place(&self, node: u32) -> Place {
        self.places[&node].clone()
    }

    fn command(&self, _: u32, program: &Path) -> Command {
        Command::new(program)
    }

    fn started(&self, node: u32, pid: u32) {
        let mut processes = self
            .shared
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        processes.insert(node, pid);
    }

    fn set(&self, weather: &Weather) -> io::Result<()> {
        self.shared.weather.send_replace(weather.clone());
        Ok(())
    }
}

async fn listen(shared: Arc<Shared>, to: u32, listener: TcpListener, target: String) {
    loop {
        // An error concerns one connection, which is the other side's to make again.
        if let Ok((socket, from)) = listener.accept().await {
            tokio::spawn(carry(shared.clone(), to, socket, from, target.clone()));
        }
    }
}

/// One connection, until one of its ends closes it.
async fn carry(shared: Arc<Shared>, to: u32, socket: TcpStream, from: SocketAddr, target: String) {
    let Some(from) = shared.owner(&socket, from).await else {
        return; // Whoever it was is gone.
    };
    // Nobody gets through a cut to be answered.
    shared.passable(from, to).await;
    shared.passable(to, from).await;
    let Ok(onward) = TcpStream::connect(target).await else {
        return;
    };
    // Latency is ours to add; the options of a fresh socket can be set.
    let _ = (socket.set_nodelay(true), onward.set_nodelay(true));
    let (read_there, write_there) = socket.into_split();
    let (read_here, write_here) = onward.into_split();
    tokio::select! {
        () = link(shared.clone(), (from, to), read_there, write_here) => {}
        () = link(shared.clone(), (to, from), read_here, write_there) => {}
    }
}

/// One direction of a connection, until it ends.
async fn link(
    shared: Arc<Shared>,
    (from, to): (u32, u32),
    mut input: OwnedReadHalf,
    mut output: OwnedWriteHalf,
) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(PORTIONS);
    let read = async {
        let mut last = Instant::now();
        loop {
            let mut portion = vec![0; PORTION];
            match input.read(&mut portion).await {
                Ok(0) | Err(_) => return,
                Ok(length) => portion.truncate(length),
            }
            // Nothing overtakes anything on a connection.
            last = last.max(Instant::now() + shared.delay(from, to));
            if sender.send((last, portion)).await.is_err() {
                return;
            }
        }
    };
    let write = async {
        while let Some((due, portion)) = receiver.recv().await {
            sleep_until(due).await;
            shared.passable(from, to).await;
            if output.write_all(&portion).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}

impl Shared {
    async fn owner(self: &Arc<Self>, socket: &TcpStream, from: SocketAddr) -> Option<u32> {
        let (SocketAddr::V4(theirs), SocketAddr::V4(ours)) = (from, socket.local_addr().ok()?) else {
            return None;
        };
        let processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let find = move || owner::of((theirs, ours), &processes);
        spawn_blocking(find).await.ok()?
    }

    /// Waits until the link is not cut.
    async fn passable(&self, from: u32, to: u32) {
        let mut weather = self.weather.subscribe();
        let open = |weather: &Weather| weather.lost.get(&(from, to)).is_none_or(|share| *share < 1.0);
        // The sender lives as long as the program.
        let _ = weather.wait_for(open).await;
    }

    fn delay(&self, from: u32, to: u32) -> Duration {
        let weather = self.weather.borrow();
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let mut delay = if weather.slow {
            random.millis(DELAY_MS)
        } else {
            Duration::ZERO
        };
        let lost = weather.lost.get(&(from, to)).copied().unwrap_or(0.0);
        if lost < 1.0 && random.chance(lost) {
            delay += REPETITION;
        }
        delay
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    /// So long nothing comes from a link that is cut.
    const WHILE: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_cut_link_withholds_bytes_of_its_direction_until_it_is_whole() {
        let proxies = Proxies::make(2, &mut Random::new(1))
            .await
            .expect("there are free ports");
        proxies.started(1, std::process::id());
        let place = proxies.place(2);
        let listener = TcpListener::bind(place.peers).await.expect("the port is free");
        let mut one = TcpStream::connect(place.peers_listed)
            .await
            .expect("the proxy listens");
        let (mut two, _) = timeout(SOON, listener.accept())
            .await
            .expect("in time")
            .expect("a connection");
        let mut byte = [0];

        let lost = BTreeMap::from([((1, 2), 1.0)]);
        proxies
            .set(&Weather { lost, slow: false })
            .expect("it can be set");
        one.write_all(b"x").await.expect("it is written");
        two.write_all(b"y").await.expect("it is written");
        timeout(SOON, one.read_exact(&mut byte))
            .await
            .expect("in time")
            .expect("a byte");
        assert_eq!(&byte, b"y");
        assert!(timeout(WHILE, two.read_exact(&mut byte)).await.is_err());

        proxies.set(&Weather::default()).expect("it can be set");
        timeout(SOON, two.read_exact(&mut byte))
            .await
            .expect("in time")
            .expect("a byte");
        assert_eq!(&byte, b"x");
    }
}

//! Every node behind a TCP proxy of ours, where network namespaces are not allowed.
//!
//! A proxy finds out which node a connection comes from, and treats each direction as the link that it is. What is cut is
//! withheld and arrives when the link is whole again, as TCP would repeat it; what is lost comes a repetition later. Clients
//! reach each node through another one.

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

use super::{super::random::Random, CLIENTS, Network, Place, Weather, owner};

/// TCP's shortest time before it repeats what was lost.
const REPETITION: Duration = Duration::from_millis(200);
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
            let for_clients = TcpListener::bind("127.0.0.1:0").await?;
            let (clients, peers) = (free_port()?, free_port()?);
            let place = Place {
                clients: clients.clone(),
                clients_found: for_clients.local_addr()?.to_string(),
                http: free_port()?,
                peers: peers.clone(),
                peers_listed: listener.local_addr()?.to_string(),
            };
            places.insert(node, place);
            tokio::spawn(listen(shared.clone(), (None, node), listener, peers));
            tokio::spawn(listen(
                shared.clone(),
                (Some(CLIENTS), node),
                for_clients,
                clients,
            ));
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
        "bytes are delayed, and links narrow"
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

/// Carries connections of one party, or of whoever they come from, to another.
async fn listen(shared: Arc<Shared>, link: (Option<u32>, u32), listener: TcpListener, target: String) {
    loop {
        // An error concerns one connection, which is the other side's to make again.
        if let Ok((socket, from)) = listener.accept().await {
            tokio::spawn(carry(shared.clone(), link, socket, from, target.clone()));
        }
    }
}

/// One connection, until one of its ends closes it.
async fn carry(
    shared: Arc<Shared>,
    (party, to): (Option<u32>, u32),
    socket: TcpStream,
    from: SocketAddr,
    target: String,
) {
    let from = match party {
        Some(party) => Some(party),
        None => shared.owner(&socket, from).await,
    };
    let Some(from) = from else {
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
            last = last.max(Instant::now() + shared.delay(from, to)) + shared.passes(from, to, portion.len());
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
        let slow = weather.slow.get(&(from, to));
        let mut delay = slow.map_or(Duration::ZERO, |slow| {
            random.millis(slow.delay_ms..3 * slow.delay_ms + 1)
        });
        let lost = weather.lost.get(&(from, to)).copied().unwrap_or(0.0);
        if lost < 1.0 && random.chance(lost) {
            delay += REPETITION;
        }
        delay
    }

    /// How long a narrow link is busy with so many bytes.
    fn passes(&self, from: u32, to: u32, bytes: usize) -> Duration {
        let slow = self.weather.borrow().slow.get(&(from, to)).copied();
        slow.map_or(Duration::ZERO, |slow| {
            Duration::from_micros(bytes as u64 * 8_000 / slow.kbit.max(1))
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::{super::Slow, *};

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
            .set(&Weather {
                lost,
                ..Weather::default()
            })
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

    #[tokio::test]
    async fn clients_come_through_a_link_that_can_be_narrow() {
        let proxies = Proxies::make(1, &mut Random::new(1))
            .await
            .expect("there are free ports");
        let place = proxies.place(1);
        let listener = TcpListener::bind(place.clients).await.expect("the port is free");
        let slow = Slow {
            delay_ms: 1,
            kbit: 80,
        };
        proxies
            .set(&Weather {
                slow: BTreeMap::from([((CLIENTS, 1), slow)]),
                ..Weather::default()
            })
            .expect("it can be set");
        let mut client = TcpStream::connect(place.clients_found)
            .await
            .expect("the proxy listens");
        let (mut node, _) = timeout(SOON, listener.accept())
            .await
            .expect("in time")
            .expect("a connection");
        let began = Instant::now();
        client.write_all(&[7; 2_000]).await.expect("it is written");
        let mut all = [0; 2_000];
        timeout(SOON, node.read_exact(&mut all))
            .await
            .expect("in time")
            .expect("all bytes");
        assert!(began.elapsed() >= WHILE, "2,000 bytes at 10,000 a second");
    }
}

//! Every node in a network namespace of its own, and a bridge in another one that joins them with the clients.
//!
//! What a node does not hear is dropped where the bridge sends it to the node, so a cut may have one direction only. Nothing
//! of the machine's own network is touched, but for one link and one address by which the clients reach the bridge.

use std::{
    io,
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
};

use super::{super::random::Random, CLIENTS, Cleanup, Network, Place, Slow, Weather, filter};
use crate::chaos::shell::{self, line};

const CLIENT_PORT: u16 = 8081;
const HTTP_PORT: u16 = 8082;
const PEER_PORT: u16 = 8083;
/// The last number of the clients' address.
const CLIENTS_HOST: u8 = 254;
/// Links that are not slow.
const FAST: &str = "10gbit";
/// The number of the queue of fast links; those of slow ones follow by sender.
const FAST_QUEUE: u32 = 1;
/// Packets that wait on a narrow link, where the kernel cannot delay them.
const QUEUE: u32 = 60;

/// The namespaces of a run; whoever cleans up removes them.
pub(super) struct Namespaces {
    prefix: String,
    /// The first three numbers of all addresses.
    subnet: [u8; 3],
    nodes: u32,
    can_delay: bool,
    weather: Mutex<Weather>,
}

impl Namespaces {
    /// Makes them; an error says what the machine does not allow.
    pub(super) fn make(nodes: u32, random: &mut Random, cleanup: &Cleanup) -> io::Result<Namespaces> {
        if !rustix::process::geteuid().is_root() {
            return Err(io::Error::other("network namespaces need root"));
        }
        let mut network = Namespaces {
            prefix: format!("chaos-{}", std::process::id()),
            subnet: [10, 213, random.within(0..256) as u8],
            nodes,
            can_delay: false,
            weather: Mutex::default(),
        };
        network.build(cleanup)?;
        network.can_delay = network.try_delay();
        Ok(network)
    }

    fn build(&self, cleanup: &Cleanup) -> io::Result<()> {
        let switch = self.switch();
        let entrance = format!("chaos{}", std::process::id());
        for namespace in (1..=self.nodes)
            .map(|node| self.namespace(node))
            .chain([switch.clone()])
        {
            cleanup.will_make_namespace(&namespace)?;
            line(&format!("ip netns add {namespace}"))?;
        }
        line(&format!("ip -n {switch} link add bridge type bridge"))?;
        line(&format!("ip -n {switch} link set bridge up"))?;
        cleanup.will_make_link(&entrance)?;
        line(&format!(
            "ip link add {entrance} type veth peer name clients netns {switch}"
        ))?;
        let address = self.address(CLIENTS);
        line(&format!("ip addr add {address}/24 dev {entrance}"))?;
        line(&format!("ip link set {entrance} up"))?;
        self.join("clients")?;
        for node in 1..=self.nodes {
            let (namespace, port, address) = (self.namespace(node), port(node), self.address(node));
            line(&format!(
                "ip -n {switch} link add {port} type veth peer name eth0 netns {namespace}"
            ))?;
            line(&format!("ip -n {namespace} addr add {address}/24 dev eth0"))?;
            line(&format!("ip -n {namespace} link set eth0 up"))?;
            line(&format!("ip -n {namespace} link set lo up"))?;
            self.join(&port)?;
        }
        // That filters can be set is found out now, not in the middle of a fault.
        self.filter_all(&Weather::default())
    }

    /// Makes the switch's end of a link a port of the bridge, with a place for a filter.
    fn join(&self, port: &str) -> io::Result<()> {
        let switch = self.switch();
        line(&format!("ip -n {switch} link set {port} master bridge"))?;
        line(&format!("ip -n {switch} link set {port} up"))?;
        line(&format!("tc -n {switch} qdisc add dev {port} clsact"))
    }

    fn filter_all(&self, weather: &Weather) -> io::Result<()> {
        (CLIENTS..=self.nodes).try_for_each(|to| self.filter(to, weather))
    }

    /// What `to` does not hear.
    fn filter(&self, to: u32, weather: &Weather) -> io::Result<()> {
        let from = |&((from, at), share): &((u32, u32), f64)| (at == to).then(|| (self.address(from), share));
        let all: Vec<((u32, u32), f64)> = weather.lost.iter().map(|(link, share)| (*link, *share)).collect();
        let drop: Vec<(Ipv4Addr, f64)> = all.iter().filter_map(from).collect();
        let (switch, port) = (self.switch(), port(to));
        let program = filter::program(&drop);
        let place = format!(
            "-n {switch} filter replace dev {port} egress protocol all prio 1 handle 1 bpf da bytecode"
        );
        let mut arguments: Vec<&str> = place.split(' ').collect();
        arguments.push(&program);
        shell::run("tc", &arguments)
    }

    /// Whether the kernel has `netem`.
    fn try_delay(&self) -> bool {
        let (switch, port) = (self.switch(), port(1));
        let tried = line(&format!(
            "tc -n {switch} qdisc replace dev {port} root netem delay 1ms"
        ));
        tried.is_ok() && self.hurry(1).is_ok()
    }

    /// Makes what others send to this party slow.
    fn slow(&self, to: u32, senders: &[(u32, Slow)]) -> io::Result<()> {
        let (switch, port) = (self.switch(), port(to));
        let set = |what: &str| line(&format!("tc -n {switch} {what}"));
        set(&format!(
            "qdisc replace dev {port} root handle 1: htb default {FAST_QUEUE}"
        ))?;
        set(&format!(
            "class replace dev {port} parent 1: classid 1:{FAST_QUEUE} htb rate {FAST}"
        ))?;
        let mut queues = Vec::new();
        for (from, Slow { delay_ms, kbit }) in senders {
            let queue = FAST_QUEUE + 1 + from;
            set(&format!(
                "class replace dev {port} parent 1: classid 1:{queue} htb rate {kbit}kbit"
            ))?;
            let waits = if self.can_delay {
                format!("netem delay {}ms {delay_ms}ms", delay_ms * 2)
            } else {
                format!("pfifo limit {QUEUE}")
            };
            set(&format!(
                "qdisc replace dev {port} parent 1:{queue} handle {}: {waits}",
                queue + 1
            ))?;
            queues.push((self.address(*from), (1 << 16) + queue));
        }
        let program = filter::queues(&queues);
        let place = format!(
            "-n {switch} filter replace dev {port} parent 1: protocol all prio 1 handle 1 bpf bytecode"
        );
        let mut arguments: Vec<&str> = place.split(' ').collect();
        arguments.push(&program);
        shell::run("tc", &arguments)
    }

    fn hurry(&self, to: u32) -> io::Result<()> {
        line(&format!(
            "tc -n {} qdisc del dev {} root",
            self.switch(),
            port(to)
        ))
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    fn namespace(&self, node: u32) -> String {
        format!("{}-{node}", self.prefix)
    }

    fn address(&self, party: u32) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        let host = if party == CLIENTS {
            CLIENTS_HOST
        } else {
            party as u8
        };
        Ipv4Addr::new(a, b, c, host)
    }
}

/// The switch's end of a link.
fn port(party: u32) -> String {
    if party == CLIENTS {
        "clients".into()
    } else {
        format!("node{party}")
    }
}

/// Whom a party hears slowly.
fn senders(weather: &Weather, party: u32) -> Vec<(u32, Slow)> {
    let slow = weather.slow.iter().filter(|((_, to), _)| *to == party);
    slow.map(|((from, _), slow)| (*from, *slow)).collect()
}

impl Network for Namespaces {
    fn describe(&self) -> String {
        let [a, b, c] = self.subnet;
        format!("network namespaces {}-*, addresses {a}.{b}.{c}.0/24", self.prefix)
    }

    fn slowness(&self) -> &'static str {
        if self.can_delay {
            "packets are delayed, and links narrow"
        } else {
            "this kernel has no netem: links are narrow, and packets wait in their queues"
        }
    }

    fn clients(&self) -> Ipv4Addr {
        self.address(CLIENTS)
    }

    fn place(&self, node: u32) -> Place {
        let address = self.address(node);
        Place {
            clients: format!("{address}:{CLIENT_PORT}"),
            clients_found: format!("{address}:{CLIENT_PORT}"),
            http: format!("{address}:{HTTP_PORT}"),
            peers: format!("{address}:{PEER_PORT}"),
            peers_listed: format!("{address}:{PEER_PORT}"),
        }
    }

    fn command(&self, node: u32, program: &Path) -> Command {
        let mut command = Command::new("ip");
        // `ip` becomes the program: the process keeps its number.
        command
            .args(["netns", "exec", &self.namespace(node)])
            .arg(program);
        command
    }

    fn set(&self, weather: &Weather) -> io::Result<()> {
        let mut known = self.weather.lock().unwrap_or_else(PoisonError::into_inner);
        if known.lost != weather.lost {
            self.filter_all(weather)?;
        }
        for to in CLIENTS..=self.nodes {
            let (before, now) = (senders(&known, to), senders(weather, to));
            if before == now {
                continue;
            }
            if !before.is_empty() {
                self.hurry(to)?;
            }
            if !now.is_empty() {
                self.slow(to, &now)?;
            }
        }
        *known = weather.clone();
        Ok(())
    }
}

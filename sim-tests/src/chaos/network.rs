//! The network between the nodes, and to them: what can be cut, made lossy, and made slow.
//!
//! | file | how |
//! |---|---|
//! | `namespaces` | every node in a network namespace, on a bridge: the kernel drops and delays real packets; needs root |
//! | `filter` | the packet filters of that |
//! | `proxies` | every node behind a TCP proxy of ours, which withholds and delays bytes; needs nothing |
//! | `owner` | which process a connection comes from |
//! | `doors` | the way of clients to all nodes, on which their connections are cut; with either network |

use std::{collections::BTreeMap, io, net::Ipv4Addr, path::Path, process::Command};

use super::{cleanup::Cleanup, options::Choice, random::Random};

mod doors;
mod filter;
mod namespaces;
mod owner;
mod proxies;

pub(super) use doors::Doors;

/// Everybody who is not a node: the clients and the administration.
pub(super) const CLIENTS: u32 = 0;

/// Where a node serves.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Where it listens for clients.
    pub(super) clients: String,
    /// Where clients, or the doors before it, find it.
    pub(super) clients_found: String,
    pub(super) http: String,
    /// Where it listens for other nodes.
    pub(super) peers: String,
    /// Where other nodes find it.
    pub(super) peers_listed: String,
}

/// The state of all links; without any entry it is a good network.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Weather {
    /// Share of packets that get lost on the way from one to another; 1 is a cut.
    pub(super) lost: BTreeMap<(u32, u32), f64>,
    /// Links that are slow, from one to another.
    pub(super) slow: BTreeMap<(u32, u32), Slow>,
}

/// How slow a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slow {
    /// What is on its way takes so long, milliseconds, or up to three times that; where the network can delay.
    pub(super) delay_ms: u64,
    /// So much passes in a second, kilobits.
    pub(super) kbit: u64,
}

/// A network of nodes.
pub(super) trait Network: Send + Sync {
    /// What it is, for people.
    fn describe(&self) -> String;

    /// What it does when it is slow.
    fn slowness(&self) -> &'static str;

    /// The address of the clients' machine, as nodes see it.
    fn clients(&self) -> Ipv4Addr {
        Ipv4Addr::LOCALHOST
    }

    /// Where a node serves.
    fn place(&self, node: u32) -> Place;

    /// The beginning of a command that runs a program in a node's place.
    fn command(&self, node: u32, program: &Path) -> Command;

    /// A node's process has started.
    fn started(&self, _node: u32, _pid: u32) {}

    /// From now on links are like this. Blocks for some milliseconds.
    fn set(&self, weather: &Weather) -> io::Result<()>;
}

/// Makes a network: namespaces if it may be, otherwise proxies. The second is why not namespaces.
pub(super) async fn make(
    choice: Choice,
    nodes: u32,
    random: &mut Random,
    cleanup: &Cleanup,
) -> io::Result<(std::sync::Arc<dyn Network>, Option<io::Error>)> {
    let why = match choice {
        Choice::Proxies => None,
        Choice::Namespaces | Choice::Auto => match namespaces::Namespaces::make(nodes, random, cleanup) {
            Ok(network) => return Ok((std::sync::Arc::new(network), None)),
            Err(error) if choice == Choice::Namespaces => return Err(error),
            Err(error) => Some(error),
        },
    };
    let network = proxies::Proxies::make(nodes, random).await?;
    Ok((std::sync::Arc::new(network), why))
}

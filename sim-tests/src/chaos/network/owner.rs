//! Which of some processes a connection on this machine comes from, as `/proc` tells it.

use std::{collections::BTreeMap, fs, net::SocketAddrV4};

/// The node whose process holds the far end of a connection: its socket is the one with our addresses the other way round.
pub(super) fn of(connection: (SocketAddrV4, SocketAddrV4), processes: &BTreeMap<u32, u32>) -> Option<u32> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let (theirs, ours) = (hex(connection.0), hex(connection.1));
    let socket = format!("socket:[{}]", inode(&table, &theirs, &ours)?);
    let holds = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).ok();
        let mut links = files
            .into_iter()
            .flatten()
            .filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        links.any(|link| link.to_str() == Some(&socket))
    };
    processes
        .iter()
        .find(|(_, pid)| holds(pid))
        .map(|(node, _)| *node)
}

/// As the kernel writes it.
fn hex(address: SocketAddrV4) -> String {
    let ip = u32::from_ne_bytes(address.ip().octets());
    format!("{ip:08X}:{:04X}", address.port())
}

fn inode<'a>(table: &'a str, local: &str, remote: &str) -> Option<&'a str> {
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next() == Some(local) && words.next() == Some(remote)).then(|| words.nth(6))?
    })
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    fn v4(address: SocketAddr) -> SocketAddrV4 {
        match address {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(_) => unreachable!("bound to IPv4"),
        }
    }

    #[test]
    fn a_connection_of_this_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let _theirs = TcpStream::connect(address).expect("somebody listens");
        let (_ours, from) = listener.accept().expect("somebody connects");
        let connection = (v4(from), v4(address));
        let me = BTreeMap::from([(1, 1), (7, std::process::id())]);
        assert_eq!(of(connection, &me), Some(7));
        assert_eq!(of(connection, &BTreeMap::from([(1, u32::MAX)])), None);
    }
}

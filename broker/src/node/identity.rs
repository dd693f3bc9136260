//! Who this data directory is: written before the node's first vote, read at every start.
//!
//! File `NODE`: `u32 length | u32 crc32c | u8 version | encoded record.v1.Bootstrap`,
//! little endian. The list of nodes holds this node's own entry, incarnation
//! included, and the data directories of the others as they were when the cluster
//! was formed. A node whose directory is not in that list never joins the forming.

use std::{collections::BTreeMap, io, sync::Arc};

use flotilla_proto::record;
use prost::Message;
use raft_store::disk::Disk;

const FILE: &str = "NODE";
const TEMPORARY: &str = "NODE.tmp";
const VERSION: u8 = 1;
const MAX_BYTES: u64 = 1024 * 1024;

/// What the `NODE` file remembers.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// This node.
    pub node: u32,
    /// Which of the node's data directories this is, from 1. A replica's Raft id contains it,
    /// so a replaced directory is a new voter and the old one's votes cannot be forgotten.
    pub incarnation: u32,
    /// The nodes as known when this was written.
    pub nodes: BTreeMap<u32, record::Node>,
}

impl Identity {
    /// Reads the file; nothing if this directory never took part in a cluster.
    pub fn load(disk: &dyn Disk, node: u32) -> io::Result<Option<Self>> {
        if !disk.exists(FILE)? {
            return Ok(None);
        }
        let file = disk.open(FILE, false)?;
        let length = file.len()?;
        if !(9..=MAX_BYTES).contains(&length) {
            return Err(corrupt("its length is impossible"));
        }
        let mut bytes = vec![0; length as usize];
        let read = file.read_at(&mut bytes, 0)?;
        let stated = u32::from_le_bytes(bytes[0..4].try_into().expect("four bytes")) as usize;
        if read != bytes.len() || stated + 8 != bytes.len() {
            return Err(corrupt("it is cut short"));
        }
        let crc = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"));
        if crc32c::crc32c(&bytes[8..]) != crc {
            return Err(corrupt("its checksum is wrong"));
        }
        if bytes[8] != VERSION {
            return Err(corrupt("its version is unknown; run the release that wrote it"));
        }
        let stored = record::Bootstrap::decode(&bytes[9..]).map_err(|_| corrupt("it does not decode"))?;
        let nodes: BTreeMap<_, _> = stored.nodes.into_iter().map(|node| (node.id, node)).collect();
        let Some(me) = nodes.get(&node) else {
            return Err(io::Error::other(format!(
                "the data directory belongs to another node than {node}; check node_id and data_dir"
            )));
        };
        Ok(Some(Self {
            node,
            incarnation: me.incarnation,
            nodes,
        }))
    }

    /// Writes the file durably, replacing an older one as a whole.
    pub fn store(&self, disk: &Arc<dyn Disk>) -> io::Result<()> {
        let mut nodes: Vec<_> = self.nodes.values().cloned().collect();
        for node in &mut nodes {
            if node.id == self.node {
                node.incarnation = self.incarnation;
            }
        }
        let stored = record::Bootstrap {
            cluster: 0,
            nodes,
            data_shards: 0,
        };
        let mut content = vec![VERSION];
        stored.encode(&mut content).expect("a vector grows");
        let mut bytes = Vec::with_capacity(content.len() + 8);
        bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&content).to_le_bytes());
        bytes.extend_from_slice(&content);
        let file = disk.open(TEMPORARY, true)?;
        file.set_len(0)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        disk.rename(TEMPORARY, FILE)?;
        disk.sync_dir("")
    }

    /// The Raft id of this directory's replicas.
    pub fn replica(&self) -> u64 {
        super::replica_of(self.node, self.incarnation)
    }
}

fn corrupt(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the file {FILE} is damaged: {why}"),
    )
}

//! Who this data directory is: written before the node's first vote, read at every start.
//!
//! File `NODE`: `u32 length | u32 crc32c | u8 version | encoded record.v1.Bootstrap`,
//! little endian. It names the cluster, and the list of nodes holds this node's own entry (the one
//! with this directory's identity), incarnation included, and the data directories of the others as they were when the cluster
//! was formed. A node whose directory is not in that list never joins the forming.

use std::{collections::BTreeMap, io, sync::Arc};

use flotilla_proto::record;
use prost::Message;
use raft_store::disk::{Disk, mark, read_small, replace};

const FILE: &str = "NODE";
const VERSION: u8 = 1;
const MAX_BYTES: u64 = 1024 * 1024;
/// The reason why this directory may not take part any more, as text.
const REFUSED: &str = "REFUSED";
/// Stands in an empty directory whose predecessor was set aside as damaged.
pub const HAD_DATA: &str = "HAD_DATA";
const MAX_REASON_BYTES: u64 = 4096;

/// What the `NODE` file remembers.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// This node.
    pub node: u32,
    /// The cluster, never 0. It follows from the directories that formed it.
    pub cluster: u64,
    /// Which of the node's data directories this is, from 1. A replica's Raft id contains it,
    /// so a replaced directory is a new voter and the old one's votes cannot be forgotten.
    pub incarnation: u32,
    /// The nodes as known when this was written.
    pub nodes: BTreeMap<u32, record::Node>,
}

impl Identity {
    /// Reads the file; nothing if this directory never took part in a cluster.
    pub fn load(disk: &dyn Disk, node: u32, directory: Option<u64>) -> io::Result<Option<Self>> {
        let Some(bytes) = read_small(disk, FILE, MAX_BYTES + 1)? else {
            return Ok(None);
        };
        if !(9..=MAX_BYTES).contains(&(bytes.len() as u64)) {
            return Err(corrupt("its length is impossible"));
        }
        let stated = u32::from_le_bytes(bytes[0..4].try_into().expect("four bytes")) as usize;
        if stated + 8 != bytes.len() {
            return Err(corrupt("it is cut short"));
        }
        let crc = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"));
        if plant!(IdentityWithoutChecksum => false, else crc32c::crc32c(&bytes[8..]) != crc) {
            return Err(corrupt("its checksum is wrong"));
        }
        if bytes[8] != VERSION {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "written by a newer release: the file {FILE} has version {}, this program reads version {VERSION}; run the \
                     release that wrote it",
                    bytes[8]
                ),
            ));
        }
        let stored = record::Bootstrap::decode(&bytes[9..]).map_err(|_| corrupt("it does not decode"))?;
        let nodes: BTreeMap<_, _> = stored.nodes.into_iter().map(|node| (node.id, node)).collect();
        if directory.is_none() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the file IDENTITY is gone, and {FILE} is there: a part of the directory was lost"),
            ));
        }
        let Some(me) = nodes.values().find(|node| Some(node.directory) == directory) else {
            return Err(io::Error::other(format!(
                "the files IDENTITY and {FILE} do not belong together: one of them comes from another data directory; put the \
                 whole directory back, or start with an empty one"
            )));
        };
        if plant!(SwappedDirectoryAccepted => false, else me.id != node) {
            return Err(io::Error::other(format!(
                "the data directory belongs to node {} of cluster {:016x}, and this is node {node}; check node_id and data_dir",
                me.id, stored.cluster
            )));
        }
        Ok(Some(Self {
            node,
            cluster: stored.cluster,
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
            cluster: self.cluster,
            nodes,
            data_shards: 0,
        };
        let mut content = vec![VERSION];
        stored.encode(&mut content).expect("a vector grows");
        let mut bytes = Vec::with_capacity(content.len() + 8);
        bytes.extend_from_slice(&(content.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&content).to_le_bytes());
        bytes.extend_from_slice(&content);
        replace(&**disk, FILE, &bytes)
    }

    /// The Raft id of this directory's replicas.
    pub fn replica(&self) -> u64 {
        super::replica_of(self.node, self.incarnation)
    }
}

/// Writes down durably that this directory may not take part any more.
pub fn refuse(disk: &Arc<dyn Disk>, reason: &str) -> io::Result<()> {
    mark(&**disk, REFUSED, reason.as_bytes())
}

/// Why this directory may not take part, if it may not.
pub fn refused(disk: &dyn Disk) -> io::Result<Option<String>> {
    match read_small(disk, REFUSED, MAX_REASON_BYTES) {
        // That it stands there is enough.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(error.to_string())),
        reason => Ok(reason?.map(|reason| String::from_utf8_lossy(&reason).into_owned())),
    }
}

/// The identity of the cluster that these directories form: the same wherever they are listed, and another one for any
/// other directories.
#[must_use]
pub fn cluster_of(nodes: &BTreeMap<u32, record::Node>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (id, node) in nodes {
        for byte in id.to_le_bytes().into_iter().chain(node.directory.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash.max(1)
}

fn corrupt(why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the file {FILE} is damaged: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use raft_store::disk::SimDisk;

    use super::*;

    fn nodes(directories: [u64; 3]) -> BTreeMap<u32, record::Node> {
        (1..)
            .zip(directories)
            .map(|(id, directory)| {
                (
                    id,
                    record::Node {
                        id,
                        directory,
                        incarnation: 1,
                        ..record::Node::default()
                    },
                )
            })
            .collect()
    }

    fn stored(node: u32) -> Arc<dyn Disk> {
        stored_on(&SimDisk::new(1), node)
    }

    fn stored_on(disk: &SimDisk, node: u32) -> Arc<dyn Disk> {
        let disk: Arc<dyn Disk> = disk.mount();
        let nodes = nodes([11, 22, 33]);
        let identity = Identity {
            node,
            cluster: cluster_of(&nodes),
            incarnation: 1,
            nodes,
        };
        identity.store(&disk).unwrap();
        assert_eq!(
            Identity::load(&*disk, node, Some(u64::from(node) * 11)).unwrap(),
            Some(identity)
        );
        disk
    }

    #[test]
    fn any_other_directories_are_another_cluster() {
        let clusters = [[11, 22, 33], [22, 11, 33], [11, 22, 34]].map(|list| cluster_of(&nodes(list)));
        assert_eq!(clusters[0], cluster_of(&nodes([11, 22, 33])));
        assert!(clusters[0] != clusters[1] && clusters[0] != clusters[2] && clusters[1] != clusters[2]);
    }

    #[test]
    fn the_directory_of_another_node_says_whose_it_is() {
        let disk = stored(2);
        let error = Identity::load(&*disk, 3, Some(22)).unwrap_err().to_string();
        assert!(error.contains("belongs to node 2 of cluster"), "{error}");
    }

    #[test]
    fn parts_of_two_directories_are_none() {
        let disk = stored(2);
        let error = Identity::load(&*disk, 2, Some(99)).unwrap_err();
        assert!(error.to_string().contains("do not belong together"), "{error}");
        assert_ne!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_directory_that_lost_its_name_is_damaged() {
        let error = Identity::load(&*stored(2), 2, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }

    #[test]
    fn a_newer_version_is_not_damage() {
        let disk = stored(2);
        let file = disk.open(FILE, true).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes[8] = VERSION + 1;
        file.write_at(&bytes, 0).unwrap();
        let damaged = Identity::load(&*disk, 2, Some(22)).unwrap_err();
        assert_eq!(damaged.kind(), io::ErrorKind::InvalidData);
        let crc = crc32c::crc32c(&bytes[8..]).to_le_bytes();
        bytes[4..8].copy_from_slice(&crc);
        file.write_at(&bytes, 0).unwrap();
        let newer = Identity::load(&*disk, 2, Some(22)).unwrap_err();
        assert_eq!(newer.kind(), io::ErrorKind::Unsupported);
        assert!(
            newer.to_string().contains("written by a newer release"),
            "{newer}"
        );
    }

    #[test]
    fn a_directory_that_was_refused_remembers_why() {
        let disk = stored(2);
        assert_eq!(refused(&*disk).unwrap(), None);
        refuse(&disk, "it was replaced").unwrap();
        assert_eq!(refused(&*disk).unwrap().as_deref(), Some("it was replaced"));
    }

    #[test]
    fn what_the_disk_cannot_read_is_damage_and_a_refusal_stays_one() {
        let medium = SimDisk::new(1);
        let disk = stored_on(&medium, 2);
        refuse(&disk, "it was replaced").unwrap();
        medium.break_sector(FILE, 20);
        medium.break_sector(REFUSED, 3);
        let damaged = Identity::load(&*disk, 2, Some(22)).unwrap_err();
        assert_eq!(damaged.kind(), io::ErrorKind::InvalidData, "{damaged}");
        assert!(refused(&*disk).unwrap().is_some());
    }
}

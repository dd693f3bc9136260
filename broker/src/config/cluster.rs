//! The list of nodes a new cluster starts with: `1=HOST:PORT,2=HOST:PORT,3=HOST:PORT`.

use std::{collections::BTreeMap, fmt, str::FromStr};

use super::split_address;

/// Node ids and their peer addresses. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialCluster(BTreeMap<u32, String>);

/// A replica id is the node id and 16 bits of incarnation; ids stay small enough to be typed.
pub(super) const MAX_NODE_ID: u32 = 65_535;

impl InitialCluster {
    /// Peer address by node id.
    pub fn nodes(&self) -> &BTreeMap<u32, String> {
        &self.0
    }
}

impl FromStr for InitialCluster {
    type Err = String;

    fn from_str(text: &str) -> Result<InitialCluster, String> {
        let mut nodes = BTreeMap::new();
        for part in text.split(',').map(str::trim) {
            let wrong = || format!("`{part}` is not ID=HOST:PORT, as in 1=10.0.0.1:8083,2=10.0.0.2:8083");
            let (id, address) = part.split_once('=').ok_or_else(wrong)?;
            let id: u32 = id.trim().parse().map_err(|_| wrong())?;
            if id == 0 || id > MAX_NODE_ID {
                return Err(format!("node id {id} is not in 1..={MAX_NODE_ID}"));
            }
            let address = address.trim();
            split_address(address)?;
            if nodes.values().any(|known| known == address) {
                return Err(format!("two nodes have the address {address}"));
            }
            if nodes.insert(id, address.to_owned()).is_some() {
                return Err(format!("node {id} is named twice"));
            }
        }
        Ok(InitialCluster(nodes))
    }
}

impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (id, address)) in self.0.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{id}={address}")?;
        }
        Ok(())
    }
}

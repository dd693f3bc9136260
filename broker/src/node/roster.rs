//! Whom this node takes for the other nodes, and whom it does not talk to.
//!
//! Two clusters have the same node numbers, and so the same replica ids: a data directory at the wrong place, an old one put
//! back, or one that was copied could vote, acknowledge and be counted for what it is not. Therefore every greeting, Raft
//! message, answer and status says which cluster, data directory, incarnation and process it comes from, and is judged here,
//! by what the catalogue knows and by what was heard before, each time: what the catalogue learns counts at once.
//!
//! A directory that was put back to an older state has the right identity. It gives itself away by its log: batches are
//! numbered, a number is never used again, and what a directory answers for is synced in the log up to the number it
//! names. A process that opened its directory with less than was heard of that directory before has lost something.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use flotilla_proto::{
    peer::{Hello, Stranger, stranger::Kind},
    record,
};

/// A process that still has a connection, and was heard so lately, lives: another one of its directory is a second one.
const LIVES_FOR_MS: u64 = 3_000;
/// As many processes of a directory are remembered, the latest: a copy that was started makes two.
const PROCESSES_REMEMBERED: usize = 16;
/// The same refusal is logged again after this time.
const SAY_AGAIN_MS: u64 = 60_000;
/// What another node says of this one counts for so long.
const TOLD_FOR_MS: u64 = 3_000;

/// What is known of the other nodes. One entry for each that the catalogue or the start list names.
#[derive(Debug, Default)]
pub(crate) struct Roster(Mutex<BTreeMap<u32, Known>>);

/// One node, as far as it was heard.
#[derive(Debug, Default)]
struct Known {
    directory: u64,
    session: u64,
    /// The processes of this directory that were let in, the present one last.
    processes: VecDeque<Process>,
    /// The highest number of a synced batch that this directory has named.
    synced: u64,
    heard_ms: u64,
    /// Open connections of each process that says it is this node.
    connections: BTreeMap<u64, usize>,
    /// Who came in its name and was not let in.
    refused: Option<Refused>,
    /// It says that this node is the stranger.
    told: Option<Refused>,
}

#[derive(Debug)]
struct Process {
    session: u64,
    /// The catalogue took it for the one of its directory.
    registered: bool,
}

#[derive(Debug)]
struct Refused {
    stranger: Stranger,
    at_ms: u64,
    said_ms: u64,
}

/// A connection of another node; counts until it is dropped.
pub(crate) struct Seat {
    roster: Arc<Roster>,
    node: u32,
    session: u64,
    /// It was of a node that is known.
    counted: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.counted {
            return;
        }
        let mut all = self.roster.lock();
        let Some(known) = all.get_mut(&self.node) else {
            return;
        };
        if let Some(count) = known.connections.get_mut(&self.session) {
            *count -= 1;
            if *count == 0 {
                known.connections.remove(&self.session);
            }
        }
    }
}

impl Roster {
    /// Of the start list: while the cluster forms, nothing else tells whose connections are to be counted.
    pub(crate) fn of(start_list: impl IntoIterator<Item = u32>) -> Roster {
        let nodes = start_list.into_iter().map(|node| (node, Known::default()));
        Roster(Mutex::new(nodes.collect()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges who says something, and remembers what it says of itself. `me` is this node's own greeting, `listed` the
    /// other node as the catalogue has it (before there is one: as it was when the cluster formed).
    pub(crate) fn hear(
        &self,
        me: &Hello,
        listed: Option<&record::Node>,
        other: &Hello,
        now_ms: u64,
    ) -> Result<(), Stranger> {
        let mut all = self.lock();
        let judged = match (listed, all.get_mut(&other.node)) {
            (_, Some(known)) => judge(me, listed, known, other, now_ms),
            (Some(_), None) => judge(me, listed, all.entry(other.node).or_default(), other, now_ms),
            // Nothing is remembered of numbers that nobody has.
            (None, None) => judge(me, None, &mut Known::default(), other, now_ms),
        };
        let place = all.get_mut(&other.node);
        match (&judged, place) {
            (Ok(()), Some(known)) => {
                if known.refused.take().is_some() {
                    tracing::info!(
                        node = other.node,
                        "a node that was refused is the right one again"
                    );
                }
            }
            (Err(stranger), Some(known)) => {
                if note(&mut known.refused, stranger, now_ms) {
                    tracing::warn!(
                        node = other.node,
                        kind = stranger.kind().as_str_name(),
                        reason = stranger.message,
                        "not talking to a node that does not belong here"
                    );
                }
            }
            (Err(stranger), None) => {
                tracing::debug!(
                    node = other.node,
                    reason = stranger.message,
                    "a stranger is refused"
                );
            }
            (Ok(()), None) => {}
        }
        judged
    }

    /// Counts a connection of a process that was let in.
    pub(crate) fn seat(self: &Arc<Self>, other: &Hello) -> Seat {
        let counted = match self.lock().get_mut(&other.node) {
            Some(known) => {
                *known.connections.entry(other.session).or_default() += 1;
                true
            }
            None => false,
        };
        Seat {
            roster: Arc::clone(self),
            node: other.node,
            session: other.session,
            counted,
        }
    }

    /// Another node says why it does not talk to this one. True when that is news.
    pub(crate) fn told(&self, by: u32, stranger: &Stranger, now_ms: u64) -> bool {
        note(&mut self.lock().entry(by).or_default().told, stranger, now_ms)
    }

    /// Why others lately refused this node, by the node that did.
    pub(crate) fn refusals_of_me(&self, now_ms: u64) -> BTreeMap<u32, String> {
        let all = self.lock();
        let lately = |told: &&Refused| told.at_ms + TOLD_FOR_MS > now_ms;
        let told = all
            .iter()
            .filter_map(|(&node, known)| Some((node, known.told.as_ref().filter(lately)?)));
        told.map(|(node, told)| (node, told.stranger.message.clone()))
            .collect()
    }

    /// Who lately came in the name of a node and was refused, and why.
    pub(crate) fn refused(&self, now_ms: u64) -> BTreeMap<u32, String> {
        let all = self.lock();
        let lately = |refused: &&Refused| refused.at_ms + TOLD_FOR_MS > now_ms;
        let refused = all
            .iter()
            .filter_map(|(&node, known)| Some((node, known.refused.as_ref().filter(lately)?)));
        refused
            .map(|(node, refused)| (node, refused.stranger.message.clone()))
            .collect()
    }

    /// True while a process of the node runs on another data directory than this.
    pub(crate) fn lives_elsewhere(&self, node: u32, directory: u64, now_ms: u64) -> bool {
        let all = self.lock();
        all.get(&node)
            .is_some_and(|known| known.directory != 0 && known.directory != directory && known.lives(now_ms))
    }
}

impl Known {
    /// Whether the process heard last still runs.
    fn lives(&self, now_ms: u64) -> bool {
        self.connections.contains_key(&self.session) && self.heard_ms + LIVES_FOR_MS > now_ms
    }

    /// This process is the present one.
    fn let_in(&mut self, other: &Hello, registered: bool) {
        let same_directory = self.directory == other.directory;
        if !same_directory {
            self.processes.clear();
        }
        if same_directory && self.session == other.session {
            self.synced = self.synced.max(other.synced);
        } else {
            self.synced = other.synced;
            self.processes.push_back(Process {
                session: other.session,
                registered,
            });
            if self.processes.len() > PROCESSES_REMEMBERED {
                self.processes.pop_front();
            }
        }
        if let Some(process) = self.processes.back_mut() {
            process.registered |= registered;
        }
        self.directory = other.directory;
        self.session = other.session;
    }
}

/// Remembers a refusal; true if it should be said.
fn note(place: &mut Option<Refused>, stranger: &Stranger, now_ms: u64) -> bool {
    let said_ms = match place {
        Some(before) if before.stranger == *stranger && before.said_ms + SAY_AGAIN_MS > now_ms => {
            before.said_ms
        }
        _ => now_ms,
    };
    *place = Some(Refused {
        stranger: stranger.clone(),
        at_ms: now_ms,
        said_ms,
    });
    said_ms == now_ms
}

/// Whether `other` is the node it says it is, on the data directory that belongs to it, and in the only process of it.
fn judge(
    me: &Hello,
    listed: Option<&record::Node>,
    known: &mut Known,
    other: &Hello,
    now_ms: u64,
) -> Result<(), Stranger> {
    // Whoever has no cluster yet asks, or is asked, what there is; it has no replicas, and nothing it says counts for one.
    if me.cluster == 0 || other.cluster == 0 {
        return Ok(());
    }
    if plant!(AnotherClustersNodeAccepted => false, else other.cluster != me.cluster) {
        return refuse(
            Kind::OtherCluster,
            format!(
                "the data directory {:016x} of node {} belongs to cluster {:016x}, that of node {} to cluster {:016x}: one of \
             them is at the wrong place",
                other.directory, other.node, other.cluster, me.node, me.cluster
            ),
        );
    }
    if other.node == me.node {
        return refuse(
            Kind::Twice,
            format!(
                "node {} runs here already: is another one started with its number, or with a copy of its data directory?",
                me.node
            ),
        );
    }
    let Some(listed) = listed else {
        return refuse(
            Kind::NotAMember,
            format!("this cluster has no node {}", other.node),
        );
    };
    if other.incarnation < listed.incarnation
        || (other.incarnation == listed.incarnation && ![0, other.directory].contains(&listed.directory))
    {
        return Err(Stranger {
            kind: Kind::Replaced.into(),
            message: format!(
                "the data directory {:016x} of node {} was replaced: the cluster goes on with {:016x}, incarnation {}",
                other.directory, other.node, listed.directory, listed.incarnation
            ),
            incarnation: listed.incarnation,
            ..Stranger::default()
        });
    }
    judge_process(listed, known, other, now_ms)
}

/// Whether the right directory has all that it had, and is in use only once.
fn judge_process(
    listed: &record::Node,
    known: &mut Known,
    other: &Hello,
    now_ms: u64,
) -> Result<(), Stranger> {
    let same_directory = known.directory == other.directory;
    let same_process = same_directory && known.session == other.session;
    let same_listed = listed.directory == other.directory;
    // Of the lives before this one: what was heard of them, and what the catalogue has, which may only learn it later.
    let registered = if same_listed && listed.session != other.session {
        listed.synced
    } else {
        0
    };
    let let_in = known
        .processes
        .iter()
        .find(|process| same_directory && process.session == other.session);
    if let Some(process) = let_in {
        // It began with all there was. Whoever came after it runs beside it, and what that one has tells nothing of this one.
        let listed_before = process.registered && other.opened < registered;
        if !same_process || listed_before {
            return twice(other);
        }
    }
    let another_process = same_directory && !same_process;
    let heard = if another_process { known.synced } else { 0 };
    let had = plant!(OlderDirectoryAccepted => registered, else heard.max(registered));
    if other.opened < had {
        return Err(older(other, had));
    }
    if another_process && known.lives(now_ms) {
        return twice(other);
    }
    known.let_in(other, same_listed && listed.session == other.session);
    known.heard_ms = now_ms;
    Ok(())
}

fn twice(other: &Hello) -> Result<(), Stranger> {
    refuse(
        Kind::Twice,
        format!(
            "the data directory {:016x} of node {} is in use by another process already: it was copied, and the copy was \
             started, too",
            other.directory, other.node
        ),
    )
}

fn older(other: &Hello, had: u64) -> Stranger {
    Stranger {
        kind: Kind::Older.into(),
        message: format!(
            "the data directory {:016x} of node {} was put back to an older state: it had {had} batches in its log, and was \
             opened with {}",
            other.directory, other.node, other.opened
        ),
        synced: had,
        ..Stranger::default()
    }
}

fn refuse(kind: Kind, message: String) -> Result<(), Stranger> {
    Err(Stranger {
        kind: kind.into(),
        message,
        ..Stranger::default()
    })
}

#[cfg(test)]
mod tests;

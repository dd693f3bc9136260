//! Who takes part in a shard.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{
    ChangeMembers,
    errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError},
};

use super::{ChangeError, Replica, members};
use crate::types::{Member, TypeConfig};

impl Replica {
    /// Founds the shard with these voters (replica id to node id), this replica among them. Every founding replica may
    /// call it, with the same members; a replica that already has a membership or a log leaves it as it is.
    pub async fn initialize(&self, voters: BTreeMap<u64, u32>) -> Result<(), ChangeError> {
        match self.inner.raft.initialize(members(voters)).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(ChangeError::Refused(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(ChangeError::Stopped(self.reason(&fatal))),
        }
    }

    /// Adds a replica that receives the log without voting. Returns when that is committed, before it has caught up.
    pub async fn add_learner(&self, replica: u64, node: u32) -> Result<(), ChangeError> {
        let added = self.inner.raft.add_learner(replica, Member { node }, false).await;
        added.map(drop).map_err(|error| self.change_error(error))
    }

    /// Replaces the voters. New ones must be learners, and should have caught up; removed ones leave the shard
    /// altogether. Goes through a joint configuration and returns when the new one is committed.
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<(), ChangeError> {
        self.change(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Removes learners from the shard.
    pub async fn remove_learners(&self, learners: BTreeSet<u64>) -> Result<(), ChangeError> {
        self.change(ChangeMembers::RemoveNodes(learners)).await
    }

    async fn change(&self, change: ChangeMembers<u64, Member>) -> Result<(), ChangeError> {
        let changed = self.inner.raft.change_membership(change, false).await;
        changed.map(drop).map_err(|error| self.change_error(error))
    }

    fn change_error(&self, error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ChangeError {
        match error {
            RaftError::APIError(
                ClientWriteError::ForwardToLeader(forward) | ClientWriteError::LogEntryDiscarded(forward),
            ) => ChangeError::NotLeader {
                leader: forward.leader_id,
            },
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
                // A leader that has not yet committed an entry of its own term is as busy as one that changes.
                ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_) => {
                    ChangeError::InProgress
                }
                error => ChangeError::Refused(error.to_string()),
            },
            RaftError::APIError(error) => ChangeError::Refused(error.to_string()),
            RaftError::Fatal(fatal) => ChangeError::Stopped(self.reason(&fatal)),
        }
    }
}

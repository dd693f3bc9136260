//! Between openraft's types and what is written and sent.

use bytes::Bytes;
use flotilla_proto::{peer, record};
use openraft::vote::RaftLeaderId;
use prost::Message;

use super::{
    AppendRequest, AppendResponse, Entry, LeaderId, Member, Membership, RaftLogId, StoredMembership,
    TransferRequest, Vote, VoteRequest, VoteResponse,
};
use crate::{log_id::LogId, record::Record};

pub(crate) fn to_raft(id: LogId) -> RaftLogId {
    RaftLogId::new(LeaderId::new(id.term, id.node), id.index)
}

pub(crate) fn from_raft(id: &RaftLogId) -> LogId {
    LogId {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn to_proto(id: &RaftLogId) -> record::LogId {
    record::LogId {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn from_proto(id: record::LogId) -> RaftLogId {
    RaftLogId::new(LeaderId::new(id.term, id.node), id.index)
}

pub(crate) fn vote_to_proto(vote: &Vote) -> record::Vote {
    record::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_proto(vote: record::Vote) -> Vote {
    Vote {
        leader_id: LeaderId::new(vote.term, vote.node),
        committed: vote.committed,
    }
}

pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    Bytes::from(vote_to_proto(vote).encode_to_vec())
}

pub(crate) fn decode_vote(bytes: Bytes) -> Option<Vote> {
    record::Vote::decode(bytes).ok().map(vote_from_proto)
}

fn membership_to_proto(membership: &Membership) -> record::Membership {
    record::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| record::VoterSet {
                voters: voters.iter().copied().collect(),
            })
            .collect(),
        members: membership
            .nodes()
            .map(|(replica, member)| record::Member {
                replica: *replica,
                node: member.node,
            })
            .collect(),
    }
}

fn membership_from_proto(membership: record::Membership) -> Option<Membership> {
    let voters = membership
        .configs
        .into_iter()
        .map(|set| set.voters.into_iter().collect())
        .collect();
    let members: std::collections::BTreeMap<u64, Member> = membership
        .members
        .into_iter()
        .map(|m| (m.replica, Member { node: m.node }))
        .collect();
    if members.is_empty() {
        // What a shard without any member is stored as; openraft's own constructor refuses it.
        return Some(Membership::new_with_defaults(voters, []));
    }
    Membership::new(voters, members).ok()
}

pub(crate) fn encode_membership(membership: &Membership) -> Vec<u8> {
    membership_to_proto(membership).encode_to_vec()
}

pub(crate) fn decode_membership(bytes: Bytes) -> Option<Membership> {
    record::Membership::decode(bytes)
        .ok()
        .and_then(membership_from_proto)
}

pub(crate) fn stored_to_proto(stored: &StoredMembership) -> record::StoredMembership {
    record::StoredMembership {
        log_id: stored.log_id().as_ref().map(to_proto),
        membership: Some(membership_to_proto(stored.membership())),
    }
}

pub(crate) fn stored_from_proto(stored: record::StoredMembership) -> Option<StoredMembership> {
    let membership = membership_from_proto(stored.membership?)?;
    Some(StoredMembership::new(stored.log_id.map(from_proto), membership))
}

pub(crate) fn append_to_proto(shard: u32, request: AppendRequest) -> peer::AppendRequest {
    peer::AppendRequest {
        vote: Some(vote_to_proto(&request.vote)),
        previous: request.prev_log_id.as_ref().map(to_proto),
        leader_commit: request.leader_commit.as_ref().map(to_proto),
        records: request
            .entries
            .into_iter()
            .map(|entry| entry.into_record(shard))
            .collect(),
    }
}

/// Why what came is no append.
#[derive(Debug)]
pub(crate) enum BadAppend {
    /// The sender's mistake.
    Malformed(String),
    /// A record of this kind, which only a newer release knows.
    Newer(u8),
}

impl<S: Into<String>> From<S> for BadAppend {
    fn from(what: S) -> BadAppend {
        BadAppend::Malformed(what.into())
    }
}

pub(crate) fn append_from_proto(
    shard: u32,
    request: peer::AppendRequest,
) -> Result<AppendRequest, BadAppend> {
    let mut entries = Vec::with_capacity(request.records.len());
    let first = request.previous.map_or(Some(0), |id| id.index.checked_add(1));
    let first = first.filter(|first| first.checked_add(request.records.len() as u64).is_some());
    let first = first.ok_or("indexes that do not exist")?;
    for (next, record) in (first..).zip(request.records) {
        if let Some(kind) = Record::newer_kind(&record) {
            return Err(BadAppend::Newer(kind));
        }
        let entry = Entry::from_record(shard, record, false).map_err(|e| e.to_string())?;
        if entry.id().index != next {
            return Err(format!("entry {} where {next} was due", entry.id().index).into());
        }
        entries.push(entry);
    }
    Ok(AppendRequest {
        vote: vote_from_proto(request.vote.ok_or("an append without a vote")?),
        prev_log_id: request.previous.map(from_proto),
        entries,
        leader_commit: request.leader_commit.map(from_proto),
    })
}

pub(crate) fn append_response_to_proto(response: AppendResponse) -> peer::AppendResponse {
    use peer::append_response::Result as Outcome;
    let (result, partial_none) = match response {
        AppendResponse::Success => (Some(Outcome::Success(true)), false),
        AppendResponse::PartialSuccess(Some(id)) => (Some(Outcome::PartialSuccess(to_proto(&id))), false),
        AppendResponse::PartialSuccess(None) => (None, true),
        AppendResponse::Conflict => (Some(Outcome::Conflict(true)), false),
        AppendResponse::HigherVote(vote) => (Some(Outcome::HigherVote(vote_to_proto(&vote))), false),
    };
    peer::AppendResponse { result, partial_none }
}

pub(crate) fn append_response_from_proto(response: peer::AppendResponse) -> Option<AppendResponse> {
    use peer::append_response::Result as Outcome;
    Some(match response.result {
        Some(Outcome::Success(_)) => AppendResponse::Success,
        Some(Outcome::PartialSuccess(id)) => AppendResponse::PartialSuccess(Some(from_proto(id))),
        Some(Outcome::Conflict(_)) => AppendResponse::Conflict,
        Some(Outcome::HigherVote(vote)) => AppendResponse::HigherVote(vote_from_proto(vote)),
        None if response.partial_none => AppendResponse::PartialSuccess(None),
        None => return None,
    })
}

pub(crate) fn vote_request_to_proto(request: &VoteRequest) -> peer::VoteRequest {
    peer::VoteRequest {
        vote: Some(vote_to_proto(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(to_proto),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from_proto(request: peer::VoteRequest) -> Option<VoteRequest> {
    let mut converted = VoteRequest::new(
        vote_from_proto(request.vote?),
        request.last_log_id.map(from_proto),
    );
    converted.leadership_transfer = request.leadership_transfer;
    Some(converted)
}

pub(crate) fn vote_response_to_proto(response: &VoteResponse) -> peer::VoteResponse {
    peer::VoteResponse {
        vote: Some(vote_to_proto(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(to_proto),
    }
}

pub(crate) fn vote_response_from_proto(response: peer::VoteResponse) -> Option<VoteResponse> {
    let last = response.last_log_id.map(from_proto);
    Some(VoteResponse::new(
        vote_from_proto(response.vote?),
        last,
        response.granted,
    ))
}

pub(crate) fn transfer_to_proto(request: &TransferRequest) -> peer::TransferLeaderRequest {
    peer::TransferLeaderRequest {
        from_leader: Some(vote_to_proto(request.from_leader())),
        to: *request.to_node_id(),
        last_log_id: request.last_log_id().map(to_proto),
    }
}

pub(crate) fn transfer_from_proto(request: peer::TransferLeaderRequest) -> Option<TransferRequest> {
    let last = request.last_log_id.map(from_proto);
    Some(TransferRequest::new(
        vote_from_proto(request.from_leader?),
        request.to,
        last,
    ))
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;
    use crate::record::{Kind, tests::of_kind};

    #[test]
    fn an_append_with_a_record_of_a_newer_release_is_told_from_a_malformed_one() {
        let record = Record::encode(Kind::Blank, 1, LogId::at(1, 1, 0), b"");
        let append = |record: Bytes| {
            let request = peer::AppendRequest {
                vote: Some(record::Vote::default()),
                records: vec![record],
                ..peer::AppendRequest::default()
            };
            append_from_proto(1, request).map(drop)
        };
        assert!(append(record.clone()).is_ok());
        let newer = of_kind(99, &record);
        assert!(matches!(append(newer.clone()), Err(BadAppend::Newer(99))));
        let mut damaged = newer.to_vec();
        damaged[20] ^= 1;
        assert!(matches!(append(damaged.into()), Err(BadAppend::Malformed(_))));
    }
}

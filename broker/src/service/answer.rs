//! Answers: statuses, and what a refusal is made of.

use flotilla_proto::rocketmq::{Code, Status};

use crate::{
    limits::MAX_REASON_BYTES,
    meta::{MetaRefusal, MetaReply},
    node::proposer::SubmitError,
};

/// A request that is not carried out: a code for the SDK, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What the SDK acts on.
    pub code: Code,
    /// What is wrong and what to do.
    pub message: String,
}

impl Refused {
    /// A refusal.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// As it stands in an answer.
    pub fn status(&self) -> Option<Status> {
        status(self.code, &self.message)
    }
}

/// A status field.
pub fn status(code: Code, message: &str) -> Option<Status> {
    Some(Status {
        code: code as i32,
        message: message[..message.floor_char_boundary(MAX_REASON_BYTES)].into(),
    })
}

/// All well.
pub fn ok() -> Option<Status> {
    status(Code::Ok, "OK")
}

/// The status over several results: theirs if all agree, otherwise "look at the entries".
pub fn summary<'a>(entries: impl IntoIterator<Item = &'a Option<Status>>) -> Option<Status> {
    let mut entries = entries.into_iter().flatten();
    let Some(first) = entries.next() else { return ok() };
    plant!(SummedUpAsTheFirst => return Some(first.clone()));
    if entries.all(|entry| entry.code == first.code) {
        return Some(first.clone());
    }
    status(Code::MultipleResults, "the results differ; see the entries")
}

/// A meta reply where another one was hoped for.
pub fn from_meta(reply: MetaReply, not_found: Code) -> Refused {
    match reply {
        MetaReply::Refused(refusal) => {
            let code = match refusal {
                MetaRefusal::NotFound => not_found,
                MetaRefusal::Limit(_) => Code::TooManyRequests,
                MetaRefusal::NotBootstrapped => Code::HaNotAvailable,
                MetaRefusal::Invalid(_) | MetaRefusal::Exists => Code::BadRequest,
                MetaRefusal::AlreadyBootstrapped | MetaRefusal::UnknownNode => Code::InternalServerError,
            };
            Refused::new(code, refusal.to_string())
        }
        other => Refused::new(
            Code::InternalServerError,
            format!("unexpected reply of the meta shard: {other:?}"),
        ),
    }
}

impl From<SubmitError> for Refused {
    fn from(error: SubmitError) -> Self {
        let code = match error {
            // A node that stops is one to turn away from, as is one that does not lead.
            SubmitError::NotLeader { .. } | SubmitError::Behind | SubmitError::Stopped(_) => {
                Code::HaNotAvailable
            }
            SubmitError::Overloaded => Code::TooManyRequests,
            SubmitError::TooLarge(_) | SubmitError::BatchTooLarge(..) => Code::MessageBodyTooLarge,
            SubmitError::NoRoom => Code::MasterPersistenceTimeout,
        };
        Refused::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_repeats_what_was_sent_is_cut() {
        let long = "é".repeat(MAX_REASON_BYTES);
        let status = Refused::new(Code::BadRequest, long).status().expect("a status");
        assert_eq!(status.message.len(), MAX_REASON_BYTES);
    }

    #[test]
    fn equal_results_are_summed_up_as_themselves() {
        assert_eq!(summary([&ok(), &ok()]), ok());
        let failed = status(Code::InvalidReceiptHandle, "stale");
        assert_eq!(summary([&failed, &failed]), failed);
        assert_eq!(
            summary([&ok(), &failed]).unwrap().code,
            Code::MultipleResults as i32
        );
    }
}

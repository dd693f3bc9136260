//! Answers to what changes something: SendMessage, AckMessage, ChangeInvisibleDuration.

use broker::service::handle::Handle;
use flotilla_proto::rocketmq as mq;

use super::{broken, sums_up};

/// One entry for each message, in their order, or none at all and a refusal; each with its id.
#[must_use]
pub fn of_send(request: &mq::SendMessageRequest, answer: &mq::SendMessageResponse) -> Vec<String> {
    let code = answer.status.as_ref().map(mq::Status::code);
    if answer.entries.is_empty() {
        let is_refusal = !matches!(
            code,
            None | Some(mq::Code::Ok | mq::Code::MultipleResults | mq::Code::Unspecified)
        );
        let wrong = (!is_refusal).then(|| format!("a send without entries is not refused: {answer:?}"));
        return wrong.into_iter().collect();
    }
    let id = |message: &mq::Message| message.system_properties.clone().unwrap_or_default().message_id;
    let statuses: Vec<_> = answer.entries.iter().map(|entry| entry.status.as_ref()).collect();
    let is_plain = |entry: &mq::SendResultEntry| {
        entry.transaction_id.is_empty() && entry.recall_handle.is_empty() && entry.offset >= 0
    };
    let rules = [
        (
            request
                .messages
                .iter()
                .map(id)
                .eq(answer.entries.iter().map(|entry| entry.message_id.clone())),
            "entries are not those of the messages",
        ),
        (
            sums_up(answer.status.as_ref(), &statuses),
            "the status does not sum up the entries",
        ),
        (
            answer.entries.iter().all(is_plain),
            "an entry is not that of a normal message",
        ),
    ];
    broken(rules, || format!("{answer:?}"))
}

/// One entry for each, in their order, refused or not; each with its id and its handle.
#[must_use]
pub fn of_ack(request: &mq::AckMessageRequest, answer: &mq::AckMessageResponse) -> Vec<String> {
    let asked = request
        .entries
        .iter()
        .map(|entry| (&entry.message_id, &entry.receipt_handle));
    let told_of = answer
        .entries
        .iter()
        .map(|entry| (&entry.message_id, &entry.receipt_handle));
    let statuses: Vec<_> = answer.entries.iter().map(|entry| entry.status.as_ref()).collect();
    let rules = [
        (asked.eq(told_of), "entries are not those that were asked for"),
        (
            sums_up(answer.status.as_ref(), &statuses),
            "the status does not sum up the entries",
        ),
    ];
    broken(rules, || format!("{answer:?}"))
}

/// Another handle for the same message, or, refused, the one that was shown: some SDKs take it over in any case.
#[must_use]
pub fn of_change(
    request: &mq::ChangeInvisibleDurationRequest,
    answer: &mq::ChangeInvisibleDurationResponse,
) -> Vec<String> {
    let (shown, given) = (&request.receipt_handle, &answer.receipt_handle);
    let is_another = || {
        let (before, now) = (Handle::decode(shown)?, Handle::decode(given)?);
        let renamed = Handle {
            nonce: now.nonce,
            ..before
        };
        Some(now == renamed && now != before)
    };
    let is_done = answer
        .status
        .as_ref()
        .is_some_and(|status| status.code() == mq::Code::Ok);
    let rules = [
        (
            !is_done || is_another() == Some(true),
            "not a new handle for the message",
        ),
        (is_done || shown == given, "a refusal does not repeat the handle"),
    ];
    broken(rules, || format!("{answer:?} to {shown}"))
}

#[cfg(test)]
mod tests {
    use mq::Code;
    use queue_core::QueueId;

    use super::*;

    fn status(code: Code) -> Option<mq::Status> {
        Some(mq::Status {
            code: code.into(),
            message: String::new(),
        })
    }

    fn sent(ids: &[&str]) -> mq::SendMessageRequest {
        let message = |id: &&str| mq::Message {
            system_properties: Some(mq::SystemProperties {
                message_id: (*id).into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        mq::SendMessageRequest {
            messages: ids.iter().map(message).collect(),
        }
    }

    fn stored(top: Code, entries: &[(&str, Code)]) -> mq::SendMessageResponse {
        let entry = |(id, code): &(&str, Code)| mq::SendResultEntry {
            message_id: (*id).into(),
            status: status(*code),
            ..Default::default()
        };
        mq::SendMessageResponse {
            status: status(top),
            entries: entries.iter().map(entry).collect(),
        }
    }

    #[test]
    fn a_send_is_answered_message_by_message() {
        let (request, ok) = (sent(&["a", "b"]), ("a", Code::Ok));
        let good = [
            stored(Code::Ok, &[ok, ("b", Code::Ok)]),
            stored(Code::MultipleResults, &[ok, ("b", Code::TooManyRequests)]),
            stored(Code::TooManyRequests, &[]),
        ];
        for answer in good {
            assert_eq!(of_send(&request, &answer), Vec::<String>::new());
        }
        let mut recalled = stored(Code::Ok, &[ok, ("b", Code::Ok)]);
        recalled.entries[1].recall_handle = "x".into();
        let bad = [
            recalled,
            stored(Code::Ok, &[]),
            stored(Code::Ok, &[ok]),
            stored(Code::Ok, &[("b", Code::Ok), ok]),
            stored(Code::Ok, &[ok, ("b", Code::TooManyRequests)]),
            stored(Code::MultipleResults, &[ok, ("b", Code::Ok)]),
            stored(
                Code::Unspecified,
                &[("a", Code::Unspecified), ("b", Code::Unspecified)],
            ),
        ];
        for answer in bad {
            assert_eq!(of_send(&request, &answer).len(), 1, "{answer:?}");
        }
    }

    #[test]
    fn an_acknowledgement_is_answered_entry_by_entry() {
        let request = mq::AckMessageRequest {
            entries: ["a", "b"]
                .map(|id| mq::AckMessageEntry {
                    message_id: id.into(),
                    receipt_handle: format!("handle of {id}"),
                    ..Default::default()
                })
                .into(),
            ..Default::default()
        };
        let answer = |top: Code, entries: [(&str, &str, Code); 2]| mq::AckMessageResponse {
            status: status(top),
            entries: entries
                .map(|(id, of, code)| mq::AckMessageResultEntry {
                    message_id: id.into(),
                    receipt_handle: format!("handle of {of}"),
                    status: status(code),
                })
                .into(),
        };
        let (a, b) = (("a", "a", Code::Ok), ("b", "b", Code::InvalidReceiptHandle));
        assert_eq!(of_ack(&request, &answer(Code::MultipleResults, [a, b])).len(), 0);
        for bad in [
            answer(Code::Ok, [a, b]),
            answer(Code::MultipleResults, [b, a]),
            answer(Code::MultipleResults, [("a", "b", Code::Ok), b]),
            mq::AckMessageResponse {
                status: status(Code::InternalServerError),
                entries: Vec::new(),
            },
        ] {
            assert!(!of_ack(&request, &bad).is_empty(), "{bad:?}");
        }
    }

    #[test]
    fn a_change_gives_another_handle_and_a_refusal_the_same() {
        let handle = |offset, nonce| {
            let queue = QueueId::new(7, 1);
            let (shard, group) = (1, 2);
            Handle {
                shard,
                queue,
                group,
                offset,
                nonce,
            }
            .encode()
        };
        let request = mq::ChangeInvisibleDurationRequest {
            receipt_handle: handle(5, 1),
            ..Default::default()
        };
        let judged = |code, receipt_handle: String| {
            let answer = mq::ChangeInvisibleDurationResponse {
                status: status(code),
                receipt_handle,
            };
            of_change(&request, &answer).len()
        };
        assert_eq!(judged(Code::Ok, handle(5, 2)), 0);
        assert_eq!(judged(Code::InvalidReceiptHandle, handle(5, 1)), 0);
        assert_eq!(judged(Code::Ok, handle(5, 1)), 1);
        assert_eq!(judged(Code::Ok, handle(6, 2)), 1);
        assert_eq!(judged(Code::Ok, String::new()), 1);
        assert_eq!(judged(Code::InvalidReceiptHandle, String::new()), 1);
    }
}

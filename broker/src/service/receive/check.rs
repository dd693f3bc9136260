//! A receive's request, checked.

use std::{sync::Arc, time::Duration};

use flotilla_filter::Kind;
use flotilla_proto::{
    record,
    rocketmq::{Code, FilterExpression, FilterType, ReceiveMessageRequest, Resource},
};
use tokio::time::Instant;

use super::super::{Caller, Service, answer::Refused, names, release};
use crate::{
    filter::{Filter, NoFilter},
    limits::{
        AUTO_RENEW_LEASE_MS, DEFAULT_POLL, MAX_INVISIBLE, MAX_POLL, MAX_RECEIVE_BATCH,
        MAX_SMALL_REQUEST_BYTES, MIN_INVISIBLE, POLL_MARGIN, REPLY_MARGIN,
    },
    node::{clients::client_hash, hub::Pair},
};

/// A receive, checked.
pub(super) struct Receive {
    pub(super) topic: Arc<record::Topic>,
    pub(super) resource: Resource,
    pub(super) full_name: String,
    pub(super) group: Arc<record::ConsumerGroup>,
    pub(super) count: usize,
    pub(super) lease_ms: u64,
    pub(super) auto_renew: bool,
    pub(super) client: u64,
    pub(super) filter: Filter,
    /// Hash of the client and of its attempt; 0 if it does not name one.
    pub(super) request: u64,
    pub(super) until: Instant,
    /// Its client does not wait for the answer any longer than this.
    pub(super) give_up: Instant,
}

impl Receive {
    /// Its topic and consumer group.
    pub(super) fn pair(&self) -> Pair {
        (self.topic.id, self.group.id)
    }

    /// How long another node may take to answer. The client waits that much longer than the poll; what arrives after it
    /// gave up stays leased for nothing.
    pub(super) fn patience(&self) -> Duration {
        (self.until + POLL_MARGIN - REPLY_MARGIN).saturating_duration_since(Instant::now())
    }
}

impl Service {
    pub(super) async fn check_receive(
        &self,
        caller: &Caller,
        request: &ReceiveMessageRequest,
    ) -> Result<Receive, Refused> {
        names::check_caller(caller)?;
        names::check_size(request, MAX_SMALL_REQUEST_BYTES)?;
        let resource = request
            .message_queue
            .as_ref()
            .and_then(|queue| queue.topic.clone())
            .unwrap_or_default();
        let full_name = names::full_name(caller, Some(&resource));
        names::check_topic(&full_name)?;
        let group_name = names::full_name(caller, request.group.as_ref());
        names::check_group(&group_name)?;
        let lease_ms = lease_ms(request)?;
        let topic = self.topic(&full_name).await?;
        let group = self.group(&group_name).await?;
        if group.fifo && names::is_by_priority(&topic) {
            return Err(Refused::new(
                Code::IllegalConsumerGroup,
                "a consumer group that wants order cannot read a PRIORITY topic, whose messages come by their priority",
            ));
        }
        // Compiled for nobody who has no topic and no consumer group.
        let filter = self.filter(request.filter_expression.as_ref())?;
        let until = Instant::now() + poll_time(caller, request.long_polling_timeout.as_ref());
        let most = plant!(BatchSizeIgnored => MAX_RECEIVE_BATCH as i32, else request.batch_size);
        Ok(Receive {
            topic,
            resource,
            full_name,
            group,
            count: usize::try_from(most).unwrap_or(0).clamp(1, MAX_RECEIVE_BATCH),
            lease_ms,
            auto_renew: request.auto_renew,
            client: client_hash(&caller.client_id),
            filter,
            request: request
                .attempt_id
                .as_deref()
                .map_or(0, |attempt| request_hash(caller, attempt)),
            until,
            give_up: give_up(caller, until),
        })
    }

    /// What the consumer wants of the topic. A request without an expression wants everything.
    pub(in crate::service) fn filter(&self, asked: Option<&FilterExpression>) -> Result<Filter, Refused> {
        let (kind, text) = asked.map_or((0, ""), |asked| (asked.r#type, asked.expression.as_str()));
        let kind = match FilterType::try_from(kind) {
            Ok(FilterType::Sql) => Kind::Sql,
            // Some SDKs leave the kind out.
            Ok(FilterType::Tag | FilterType::Unspecified) => Kind::Tag,
            Err(_) => {
                let unknown = format!("filter expressions of type {kind} are not known; use TAG or SQL");
                return Err(Refused::new(Code::IllegalFilterExpression, unknown));
            }
        };
        let compiled = self.filters().get(kind, text);
        compiled.map_err(|error| {
            let code = match error {
                NoFilter::Wrong(_) => Code::IllegalFilterExpression,
                NoFilter::TooMany => Code::TooManyRequests,
            };
            Refused::new(code, error.to_string())
        })
    }
}

/// Names a request of a client, which repeats it under the same name if the answer is lost. Never 0. Clients choose the text, and
/// get nothing by it but what is leased to themselves.
fn request_hash(caller: &Caller, attempt: &str) -> u64 {
    match attempt {
        "" => 0,
        attempt => client_hash(&format!("{}\n{attempt}", caller.client_id)).max(1),
    }
}

fn lease_ms(request: &ReceiveMessageRequest) -> Result<u64, Refused> {
    if request.auto_renew {
        return Ok(AUTO_RENEW_LEASE_MS);
    }
    let asked = request
        .invisible_duration
        .as_ref()
        .map_or(Duration::ZERO, release::to_duration);
    if (MIN_INVISIBLE..=MAX_INVISIBLE).contains(&asked) {
        let asked = plant!(AlwaysShortestLease => MIN_INVISIBLE, else asked);
        return Ok(asked.as_millis() as u64);
    }
    Err(Refused::new(
        Code::IllegalInvisibleTime,
        format!(
            "the invisible duration must be {} s to {} s",
            MIN_INVISIBLE.as_secs(),
            MAX_INVISIBLE.as_secs()
        ),
    ))
}

/// How long a receive may wait: what the client asks for, but the answer must be back before its deadline.
pub(in crate::service) fn poll_time(caller: &Caller, asked: Option<&prost_types::Duration>) -> Duration {
    let margin = if caller.forwarded {
        Duration::ZERO
    } else {
        POLL_MARGIN
    };
    let latest = caller
        .deadline
        .map_or(MAX_POLL, |deadline| deadline.saturating_sub(margin));
    let asked = match asked {
        Some(asked) => release::to_duration(asked),
        // Some SDKs put the poll only into the deadline, with their request timeout on top.
        None => caller
            .deadline
            .map_or(DEFAULT_POLL, |deadline| deadline.saturating_sub(3 * POLL_MARGIN)),
    };
    asked.min(latest).min(MAX_POLL)
}

/// When its answer would come too late: what is leased then is leased for nobody.
fn give_up(caller: &Caller, until: Instant) -> Instant {
    match caller.deadline {
        // An answer of another node has a shorter way, and less time.
        Some(deadline) => Instant::now() + deadline - REPLY_MARGIN.min(deadline / 2),
        None => until + POLL_MARGIN - REPLY_MARGIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: prost_types::Duration = prost_types::Duration {
        seconds: 40,
        nanos: 0,
    };

    #[test]
    fn a_poll_ends_before_the_clients_deadline() {
        let caller = Caller {
            deadline: Some(Duration::from_secs(5)),
            ..Default::default()
        };
        assert_eq!(poll_time(&caller, Some(&LONG)), Duration::from_secs(4));
        assert_eq!(poll_time(&Caller::default(), Some(&LONG)), MAX_POLL);
        let go = Caller {
            deadline: Some(Duration::from_secs(8)),
            ..Default::default()
        };
        assert_eq!(poll_time(&go, None), Duration::from_secs(5));
    }

    #[test]
    fn invisible_durations_have_bounds() {
        let mut request = ReceiveMessageRequest {
            invisible_duration: Some(prost_types::Duration { seconds: 9, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(lease_ms(&request).unwrap_err().code, Code::IllegalInvisibleTime);
        request.invisible_duration = Some(prost_types::Duration {
            seconds: 10,
            nanos: 0,
        });
        assert_eq!(lease_ms(&request), Ok(10_000));
        request.auto_renew = true;
        assert_eq!(lease_ms(&request), Ok(AUTO_RENEW_LEASE_MS));
    }
}

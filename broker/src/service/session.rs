//! Telemetry: one session per stream, settings in and out.
//!
//! The settings a client gets are its own with the server's values written over.
//! Nothing depends on a session: a client whose stream is lost, or ended on another
//! node, is served all the same.

use flotilla_proto::{
    record,
    rocketmq::{
        ClientType, Code, CustomizedBackoff, ExponentialBackoff, Language, Metric, RetryPolicy, Settings,
        Status, TelemetryCommand, retry_policy::Strategy, settings::PubSub, telemetry_command::Command,
    },
};
use prost_types::Duration;

use super::{Caller, Service, answer, counters::ClientKind, names, transaction::to_producer};
use crate::{
    limits::{
        DEFAULT_BACKOFF_MS, DEFAULT_MAX_ATTEMPTS, MAX_AGENT_BYTES, MAX_BODY_BYTES, MAX_RECEIVE_BATCH,
        MAX_SETTINGS_TOPICS,
    },
    node::producers::Seat,
};

/// What producers are told about retries.
const PRODUCER_ATTEMPTS: i32 = 3;
/// What push consumers are told about polls, seconds. Whole seconds: some SDKs read nothing else.
const PUSH_POLL_SECONDS: i64 = 20;
/// Lite topics come with a later release; zero quotas would break SDKs that read them.
const LITE_QUOTA: i32 = 2000;
const LITE_TOPIC_SIZE: i32 = 64;

/// One Telemetry stream. Dropping it closes the session.
pub struct Session {
    service: Service,
    caller: Caller,
    kind: Option<Kind>,
    /// Of a producer: it is asked about transactions.
    seat: Option<Seat>,
}

/// What the settings of a stream say that its client is.
#[derive(Debug, Clone)]
enum Kind {
    Producer(ClientKind),
    Consumer(ClientKind),
}

impl Service {
    /// Opens the session of a Telemetry stream.
    pub fn open_session(&self, caller: &Caller) -> Session {
        self.heard(caller);
        Session {
            service: self.clone(),
            caller: caller.clone(),
            kind: None,
            seat: None,
        }
    }
}

impl Session {
    /// Answers one command of the client; commands that answer ours, or are unknown, get none.
    pub async fn handle(&mut self, command: TelemetryCommand) -> Vec<TelemetryCommand> {
        match command.command {
            Some(Command::Settings(settings)) => {
                self.service.saw(&self.caller);
                self.is(self.kind_of(&settings));
                self.take_seat(&settings);
                vec![self.settings(settings).await]
            }
            _ => {
                self.service.heard(&self.caller);
                Vec::new()
            }
        }
    }

    /// What a client is as the figures show it: nothing of its own making that has no bound.
    fn kind_of(&self, settings: &Settings) -> Option<Kind> {
        let agent = settings.user_agent.as_ref();
        let version = agent.map_or(&self.caller.client_version, |agent| &agent.version);
        let is_plain =
            version.len() <= MAX_AGENT_BYTES && version.bytes().all(|byte| byte.is_ascii_graphic());
        let kind = ClientKind {
            language: language(settings, &self.caller).as_str_name().to_lowercase(),
            version: if is_plain { version.clone() } else { String::new() },
            ..ClientKind::default()
        };
        match settings.pub_sub.as_ref()? {
            PubSub::Publishing(_) => Some(Kind::Producer(kind)),
            PubSub::Subscription(subscription) => {
                let group = names::full_name(&self.caller, subscription.group.as_ref());
                let is_push = settings.client_type == Some(ClientType::PushConsumer as i32);
                Some(Kind::Consumer(ClientKind {
                    group: names::check_group(&group).map_or_else(|_| String::new(), |()| group),
                    mode: if is_push { "push" } else { "pull" },
                    ..kind
                }))
            }
        }
    }

    fn is(&mut self, kind: Option<Kind>) {
        let counters = self.service.counters();
        // The key under which it is counted is the one to take it from.
        let kind = kind.map(|kind| match kind {
            Kind::Producer(kind) => Kind::Producer(counters.producers.add(kind, [1])),
            Kind::Consumer(kind) => Kind::Consumer(counters.consumers.add(kind, [1])),
        });
        match &self.kind {
            Some(Kind::Producer(before)) => counters.producers.take(before, [1]),
            Some(Kind::Consumer(before)) => counters.consumers.take(before, [1]),
            None => {}
        }
        self.kind = kind;
    }

    /// A producer can be asked about transactions of the topics that it sends to.
    fn take_seat(&mut self, settings: &Settings) {
        let Some(PubSub::Publishing(publishing)) = &settings.pub_sub else {
            self.seat = None;
            return;
        };
        let is_anonymous = names::check_caller(&self.caller).is_err();
        if is_anonymous || publishing.topics.len() > MAX_SETTINGS_TOPICS {
            return;
        }
        let (service, caller) = (&self.service, &self.caller);
        let producers = service.node().producers();
        let seat = self
            .seat
            .get_or_insert_with(|| producers.enter(&caller.client_id));
        let topics = publishing.topics.iter();
        let topics = topics.map(|topic| names::full_name(caller, Some(topic)));
        // Names of nothing take no room. Of a topic that is made later it is asked once it has sent, or said so again.
        let meta = service.node().meta();
        seat.declare(topics.filter(|name| names::check_topic(name).is_ok() && meta.topic(name).is_some()));
    }

    /// The next command of the server's own: how did this transaction end?
    pub async fn next_push(&mut self) -> TelemetryCommand {
        match &mut self.seat {
            Some(seat) => {
                let asked = seat.next().await;
                to_producer(&self.caller, asked.question)
            }
            None => std::future::pending().await,
        }
    }

    async fn settings(&self, mut settings: Settings) -> TelemetryCommand {
        if topics(&settings) > MAX_SETTINGS_TOPICS {
            let why = format!("settings name at most {MAX_SETTINGS_TOPICS} topics");
            let refused = answer::Refused::new(Code::BadRequest, why);
            return status_command(refused.status().expect("a refusal has a status"));
        }
        let refused = match settings.pub_sub.as_mut() {
            Some(PubSub::Publishing(publishing)) => {
                publishing.max_body_size = MAX_BODY_BYTES as i32;
                publishing.validate_message_type = true;
                settings.backoff_policy = Some(producer_policy());
                None
            }
            Some(PubSub::Subscription(subscription)) => {
                let name = names::full_name(&self.caller, subscription.group.as_ref());
                // Whether the group is ordered must not depend on how far this node's catalogue has come.
                let (known, refused) = match names::check_group(&name) {
                    Ok(()) => match self.service.existing_group(&name).await {
                        Ok(known) => (known, None),
                        Err(error) => (None, Some(error.into())),
                    },
                    Err(refused) => (None, Some(refused)),
                };
                subscription.fifo = Some(known.as_ref().is_some_and(|group| group.fifo));
                subscription.receive_batch_size = Some(MAX_RECEIVE_BATCH as i32);
                subscription.long_polling_timeout = Some(Duration {
                    seconds: PUSH_POLL_SECONDS,
                    nanos: 0,
                });
                subscription.lite_subscription_quota = Some(LITE_QUOTA);
                subscription.max_lite_topic_size = Some(LITE_TOPIC_SIZE);
                let language = language(&settings, &self.caller);
                settings.backoff_policy = Some(consumer_policy(known.as_deref(), language));
                refused
            }
            None => Some(answer::Refused::new(
                Code::BadRequest,
                "settings name neither topics nor a consumer group",
            )),
        };
        settings.metric = Some(Metric {
            on: false,
            endpoints: None,
        });
        let status = refused.map_or_else(answer::ok, |refused| refused.status());
        TelemetryCommand {
            status,
            command: Some(Command::Settings(settings)),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.is(None);
    }
}

/// How many topics a client says that it deals with.
fn topics(settings: &Settings) -> usize {
    match &settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => publishing.topics.len(),
        Some(PubSub::Subscription(subscription)) => subscription.subscriptions.len(),
        None => 0,
    }
}

fn language(settings: &Settings, caller: &Caller) -> Language {
    let stated = settings
        .user_agent
        .as_ref()
        .map_or(Language::Unspecified, |agent| agent.language());
    match (stated, caller.language.as_str()) {
        (Language::Unspecified, "PYTHON") => Language::Python,
        (Language::Unspecified, "NODE_JS" | "HTTP") => Language::NodeJs,
        (stated, _) => stated,
    }
}

fn producer_policy() -> RetryPolicy {
    RetryPolicy {
        max_attempts: PRODUCER_ATTEMPTS,
        strategy: Some(Strategy::ExponentialBackoff(ExponentialBackoff {
            initial: Some(Duration {
                seconds: 0,
                nanos: 10_000_000,
            }),
            max: Some(Duration { seconds: 1, nanos: 0 }),
            multiplier: 2.0,
        })),
    }
}

/// The group's policy in the form that the client's language understands.
///
/// Python knows only lists of whole seconds. Node knows only exponential delays, and takes
/// the seconds for milliseconds.
fn consumer_policy(group: Option<&record::ConsumerGroup>, language: Language) -> RetryPolicy {
    let attempts = group.map_or(DEFAULT_MAX_ATTEMPTS, |group| group.max_attempts);
    let max_attempts = i32::try_from(attempts).unwrap_or(i32::MAX);
    let backoff = group
        .and_then(|group| group.backoff.as_ref())
        .and_then(|backoff| backoff.strategy.clone());
    let backoff = backoff.unwrap_or_else(|| {
        record::backoff::Strategy::Customized(record::CustomizedBackoff {
            next_ms: DEFAULT_BACKOFF_MS.to_vec(),
        })
    });
    let strategy = match language {
        Language::Python => customized(&delays(&backoff, max_attempts), true),
        Language::NodeJs => {
            let delays = delays(&backoff, max_attempts);
            let first = delays.first().copied().unwrap_or(1000);
            let last = delays.last().copied().unwrap_or(first);
            exponential(first.saturating_mul(1000), last.saturating_mul(1000), 2.0)
        }
        _ => match &backoff {
            record::backoff::Strategy::Exponential(e) => {
                exponential(e.initial_ms, e.max_ms, e.multiplier_percent as f32 / 100.0)
            }
            record::backoff::Strategy::Customized(c) => customized(&c.next_ms, false),
        },
    };
    RetryPolicy {
        max_attempts,
        strategy: Some(strategy),
    }
}

/// The delay after each attempt, as a list.
fn delays(backoff: &record::backoff::Strategy, attempts: i32) -> Vec<u64> {
    const LONGEST_LIST: i32 = 32;
    match backoff {
        record::backoff::Strategy::Customized(list) => list.next_ms.clone(),
        record::backoff::Strategy::Exponential(e) => {
            let grow = |delay: u64| delay.saturating_mul(u64::from(e.multiplier_percent)) / 100;
            let count = attempts.clamp(1, LONGEST_LIST) as usize;
            std::iter::successors(Some(e.initial_ms), |&delay| Some(grow(delay).min(e.max_ms)))
                .take(count)
                .collect()
        }
    }
}

fn customized(next_ms: &[u64], whole_seconds: bool) -> Strategy {
    let next = next_ms.iter().map(|&ms| {
        if whole_seconds {
            ms.div_ceil(1000).saturating_mul(1000)
        } else {
            ms
        }
    });
    Strategy::CustomizedBackoff(CustomizedBackoff {
        next: next.map(duration).collect(),
    })
}

fn exponential(initial_ms: u64, max_ms: u64, multiplier: f32) -> Strategy {
    Strategy::ExponentialBackoff(ExponentialBackoff {
        initial: Some(duration(initial_ms)),
        max: Some(duration(max_ms)),
        multiplier,
    })
}

fn duration(ms: u64) -> Duration {
    Duration {
        seconds: (ms / 1000) as i64,
        nanos: (ms % 1000) as i32 * 1_000_000,
    }
}

/// A command that carries only a status.
pub fn status_command(status: Status) -> TelemetryCommand {
    TelemetryCommand {
        status: Some(status),
        command: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_gets_a_list_of_whole_seconds() {
        let policy = consumer_policy(None, Language::Python);
        let Some(Strategy::CustomizedBackoff(list)) = policy.strategy else {
            panic!()
        };
        assert_eq!(list.next[0], Duration { seconds: 1, nanos: 0 });
        assert!(
            list.next
                .iter()
                .all(|delay| delay.nanos == 0 && delay.seconds > 0)
        );
        assert_eq!(policy.max_attempts, 17);
    }

    #[test]
    fn node_gets_exponential_seconds_that_it_reads_as_milliseconds() {
        let policy = consumer_policy(None, Language::NodeJs);
        let Some(Strategy::ExponentialBackoff(backoff)) = policy.strategy else {
            panic!()
        };
        assert_eq!(
            backoff.initial,
            Some(Duration {
                seconds: 1000,
                nanos: 0
            })
        );
    }

    #[test]
    fn delays_that_an_older_release_stored_reach_every_sdk_whatever_they_are() {
        let strategies = [
            record::backoff::Strategy::Customized(record::CustomizedBackoff {
                next_ms: vec![0, 1, u64::MAX - 1, u64::MAX],
            }),
            record::backoff::Strategy::Exponential(record::ExponentialBackoff {
                initial_ms: u64::MAX,
                max_ms: u64::MAX,
                multiplier_percent: u32::MAX,
            }),
        ];
        for strategy in strategies {
            let group = record::ConsumerGroup {
                max_attempts: u32::MAX,
                backoff: Some(record::Backoff {
                    strategy: Some(strategy),
                }),
                ..Default::default()
            };
            for language in [
                Language::Python,
                Language::NodeJs,
                Language::Java,
                Language::Golang,
            ] {
                let policy = consumer_policy(Some(&group), language);
                assert!(
                    policy.max_attempts > 0 && policy.strategy.is_some(),
                    "{language:?}"
                );
            }
        }
    }

    #[test]
    fn an_exponential_backoff_becomes_a_list() {
        let backoff = record::backoff::Strategy::Exponential(record::ExponentialBackoff {
            initial_ms: 1000,
            max_ms: 5000,
            multiplier_percent: 200,
        });
        assert_eq!(delays(&backoff, 5), [1000, 2000, 4000, 5000, 5000]);
    }
}

//! An operator, in half of the worlds: makes topics and consumer groups, deletes them and makes them again under the same
//! names, through the functions behind the HTTP API, at whatever node runs, while faults come and go. Once the cluster is
//! whole he does it once more, and looks whether what he was told is so, and whether nothing of what he deleted is left.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broker::{
    service::Service,
    views::{AdminError, AdminErrorKind, BackoffView, GroupSpec, GroupView, StartAt, TopicSpec},
};
use madsim::rand::{Rng, seq::SliceRandom, thread_rng};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{
    now, pause,
    spare::{self, Desk, World},
};
use crate::{
    answers::Judge,
    coverage::Coverage,
    history::{
        History,
        names::{
            Answer, GROUPS, Kind, Name, Named, Request, Rules, Spec, TOPICS, UNDERTAKERS, UNUSED_GROUP,
            UNUSED_TOPIC,
        },
    },
    host::Host,
    peers::Disorder,
    plan::Plan,
    trace::Trace,
};

mod finale;

/// Between two things that he does, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 50..2_500;
/// For how long nobody makes again what he deleted, milliseconds.
const AWAY_MS: std::ops::Range<u64> = 0..10_000;
/// A request that has no answer by then has none. A node looks for a leader for some time, and asks it for some more.
const LONGEST: Duration = Duration::from_secs(12);
/// A node that answers sooner has heard of what was made: else it would wait for longer.
const HEARD: Duration = Duration::from_secs(2);
/// A deletion that nobody can tell the outcome of is asked for so often.
const TRIES: u32 = 4;
/// Most queues of a topic.
const MOST_QUEUES: u32 = 6;
/// Longest wait between two attempts, milliseconds.
const LONGEST_BACKOFF_MS: u64 = 3_000;

/// The operator of a world, or of a world without one. Clones are the same.
#[derive(Clone, Default)]
pub struct Operator {
    calm: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    desk: Desk,
}

impl Operator {
    /// Has him and his clients begin, if the world has one.
    #[must_use]
    pub fn start(
        plan: &Plan,
        hosts: &Arc<Vec<Host>>,
        (history, coverage): (&History, &Coverage),
        disorder: &Disorder,
        trace: &Trace,
    ) -> Operator {
        let operator = Operator::default();
        if !plan.operator {
            operator.done.store(true, Ordering::SeqCst);
            return operator;
        }
        let world = World {
            hosts: hosts.clone(),
            history: history.clone(),
            coverage: coverage.clone(),
            desk: operator.desk.clone(),
            judge: Judge::new(history, plan),
        };
        let he = operator.clone();
        let (disorder, trace) = (disorder.clone(), trace.clone());
        tokio::spawn(async move {
            // The last to come to the dead letters.
            he.desk.hush(UNDERTAKERS[1]).await;
            spare::start(&world, &disorder, &trace);
            while !he.calm.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(thread_rng().gen_range(PAUSE_MS))).await;
                world.something().await;
            }
            world.finale().await;
            he.desk.stop();
            he.done.store(true, Ordering::SeqCst);
        });
        operator
    }

    /// The cluster is whole, and the faults are over.
    pub fn calm(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    /// He has done everything and found it well, or there is none.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    /// Ends his clients.
    pub fn stop(&self) {
        self.desk.stop();
    }
}

impl World {
    /// What he does between two pauses, while there are faults.
    async fn something(&self) {
        let mut rng = thread_rng();
        if rng.gen_bool(0.5) {
            let unused = [Name::topic(UNUSED_TOPIC), Name::group(UNUSED_GROUP)];
            let name = unused.choose(&mut rng).expect("two");
            match rng.gen_range(0..5) {
                0 => self.ask(name, Request::Describe).await,
                1 | 2 => self.replace(name).await,
                _ => self.ask(name, Request::Create(draw(name))).await,
            };
            return;
        }
        let name = any_used();
        match rng.gen_range(0..4) {
            // Its clients make it again.
            0 => self.delete(&name).await,
            1 => {
                self.ask(&name, Request::Create(draw(&name))).await;
                Answer::Done
            }
            _ => {
                self.desk.hush(&name.name).await;
                self.desk.next_round(&name.name);
                self.delete_for_sure(&name).await;
                stay_away().await;
                let answer = self.ask(&name, Request::Create(draw(&name))).await;
                self.desk.release(&name.name);
                answer
            }
        };
    }

    /// Deletes it, and sometimes makes it again at once.
    async fn replace(&self, name: &Name) -> Answer {
        let answer = self.delete_for_sure(name).await;
        match thread_rng().gen_bool(0.5) {
            true => self.ask(name, Request::Create(draw(name))).await,
            false => answer,
        }
    }

    /// As people do: who is told that nobody knows asks once more, most of the time somebody else.
    async fn delete_for_sure(&self, name: &Name) -> Answer {
        let mut answer = self.ask(name, Request::Delete).await;
        for _ in 1..TRIES {
            if answer != Answer::Unsure {
                break;
            }
            pause().await;
            answer = self.ask(name, Request::Delete).await;
        }
        answer
    }

    async fn delete(&self, name: &Name) -> Answer {
        self.desk.next_round(&name.name);
        self.ask(name, Request::Delete).await
    }

    /// Asks any node that runs; what it said.
    async fn ask(&self, name: &Name, request: Request) -> Answer {
        let running = self.hosts.iter().filter_map(|host| Some((host, host.service()?)));
        let running: Vec<(&Host, Arc<Service>)> = running.collect();
        let Some((host, service)) = running.choose(&mut thread_rng()) else {
            pause().await;
            return Answer::NothingDone;
        };
        let asked = now();
        self.record(Named::Asked {
            name: name.clone(),
            request: request.clone(),
        });
        let answered = async {
            tokio::select! {
                biased;
                answered = carry_out(service, name, &request) => answered,
                () = ended(host, service) => (Answer::Unsure, None),
            }
        };
        let answered = timeout(LONGEST, answered).await;
        let (answer, created_ms) = answered.unwrap_or((Answer::Unsure, None));
        let is_heard = now() < asked + HEARD;
        let number = created_ms
            .filter(|_| is_heard)
            .and_then(|ms| made(service, name, ms));
        let node = service.node().id();
        debug!(at = ?now(), node, ?name, ?request, ?answer, ?number, "the operator was told");
        self.coverage.count(&counter(name, &request, &answer));
        self.record(Named::Answered {
            name: name.clone(),
            request,
            asked,
            answer: answer.clone(),
            number,
        });
        answer
    }
}

/// Returns when the node's process has ended: it will not say anything any more.
async fn ended(host: &Host, service: &Arc<Service>) {
    while host.service().is_some_and(|now| Arc::ptr_eq(&now, service)) {
        pause().await;
    }
}

/// Nothing bears a name for a while: long enough, at times, for what was deleted to be forgotten.
async fn stay_away() {
    if thread_rng().gen_bool(0.5) {
        sleep(Duration::from_millis(thread_rng().gen_range(AWAY_MS))).await;
    }
}

fn any_used() -> Name {
    let mut rng = thread_rng();
    let (topic, group) = (TOPICS.choose(&mut rng), GROUPS.choose(&mut rng));
    match rng.gen_bool(0.5) {
        true => Name::topic(topic.expect("some")),
        false => Name::group(group.expect("some")),
    }
}

/// What is to bear a name.
fn draw(name: &Name) -> Spec {
    let mut rng = thread_rng();
    match name.kind {
        Kind::Topic => Spec::Topic {
            queues: rng.gen_range(1..=MOST_QUEUES),
        },
        Kind::Group => Spec::Group(Rules {
            max_attempts: rng.gen_range(1..=4),
            backoff_ms: (0..rng.gen_range(1..4))
                .map(|_| rng.gen_range(0..LONGEST_BACKOFF_MS))
                .collect(),
            from_end: rng.gen_bool(0.5),
        }),
    }
}

/// The number of what has the name, if that is what was made then, by the node that made it.
fn made(service: &Service, name: &Name, created_ms: u64) -> Option<u32> {
    let meta = service.node().meta();
    let (number, since) = match name.kind {
        Kind::Topic => meta.topic(&name.name).map(|it| (it.id, it.created_ms))?,
        Kind::Group => meta.group(&name.name).map(|it| (it.id, it.created_ms))?,
    };
    (since == created_ms).then_some(number)
}

/// What came of it, and when what was made was made.
async fn carry_out(service: &Service, name: &Name, request: &Request) -> (Answer, Option<u64>) {
    let (kind, name) = (name.kind, name.name.as_str());
    let made = match (kind, request) {
        (Kind::Topic, Request::Create(Spec::Topic { queues })) => {
            let spec = TopicSpec {
                name: name.to_owned(),
                queues: Some(*queues),
                message_type: "NORMAL".into(),
                ageing_ms: None,
            };
            service.create_topic(spec).await.map(|it| it.created_ms)
        }
        (Kind::Group, Request::Create(Spec::Group(rules))) => {
            let made = service.create_group(group_spec(name, rules)).await;
            made.map(|it| it.created_ms)
        }
        (_, Request::Create(spec)) => panic!("{name} cannot be {spec:?}"),
        (Kind::Topic, Request::Delete) => return (done(service.delete_topic(name).await), None),
        (Kind::Group, Request::Delete) => return (done(service.delete_group(name).await), None),
        (_, Request::Describe) => return (describe(service, kind, name).await, None),
    };
    match made {
        Ok(created_ms) => (Answer::Done, Some(created_ms)),
        Err(error) => (refused(error), None),
    }
}

async fn describe(service: &Service, kind: Kind, name: &str) -> Answer {
    let found = match kind {
        Kind::Topic => {
            let queues = |it: broker::views::TopicDetail| Spec::Topic {
                queues: it.topic.queues,
            };
            service.describe_topic(name).await.map(queues)
        }
        Kind::Group => {
            let rules = |it: broker::views::GroupDetail| Spec::Group(rules_of(&it.group));
            service.describe_group(name).await.map(rules)
        }
    };
    found.map_or_else(refused, Answer::Found)
}

fn group_spec(name: &str, rules: &Rules) -> GroupSpec {
    GroupSpec {
        name: name.to_owned(),
        max_attempts: Some(rules.max_attempts),
        backoff: Some(BackoffView::Customized {
            next_ms: rules.backoff_ms.clone(),
        }),
        fifo: false,
        start_at: if rules.from_end {
            StartAt::Last
        } else {
            StartAt::First
        },
        ..GroupSpec::default()
    }
}

fn rules_of(view: &GroupView) -> Rules {
    Rules {
        max_attempts: view.max_attempts,
        backoff_ms: match &view.backoff {
            BackoffView::Customized { next_ms } => next_ms.clone(),
            BackoffView::Exponential { initial_ms, .. } => vec![*initial_ms],
        },
        from_end: view.start_at == StartAt::Last,
    }
}

fn done(answer: Result<(), AdminError>) -> Answer {
    answer.map_or_else(refused, |()| Answer::Done)
}

fn refused(error: AdminError) -> Answer {
    match error.kind {
        AdminErrorKind::Exists => Answer::Exists,
        AdminErrorKind::NotFound => Answer::NotFound,
        AdminErrorKind::Unavailable if error.message.contains("has no leader") => Answer::NothingDone,
        AdminErrorKind::Unavailable => Answer::Unsure,
        AdminErrorKind::Invalid | AdminErrorKind::Limit => Answer::Refused(error.message),
    }
}

fn counter(name: &Name, request: &Request, answer: &Answer) -> String {
    let what = match request {
        Request::Create(_) => "creates",
        Request::Delete => "deletes",
        Request::Describe => "describes",
    };
    let said = match answer {
        Answer::Done => "done",
        Answer::Found(_) => "found",
        Answer::Exists => "exists",
        Answer::NotFound => "not found",
        Answer::NothingDone => "no leader",
        Answer::Unsure => "unknown",
        Answer::Refused(_) => "refused",
    };
    format!("operator {what} {:?}: {said}", name.kind).to_lowercase()
}

//! What the operator does once the cluster is whole: every name is kept, given anew or left to its clients, and then all
//! must be as he was told, everything owed must come, and nothing be left of what was deleted.

use std::{collections::BTreeSet, time::Duration};

use broker::{
    meta::{DEAD_LETTER_PREFIX, MetaState},
    node::{Node, kv::Reading},
};
use madsim::rand::{Rng, thread_rng};
use tokio::time::sleep;

use super::{
    super::now, Answer, GROUPS, Host, Kind, Name, Named, Request, TOPICS, UNDERTAKERS, World, draw, pause,
    stay_away,
};
use crate::{
    history::names::{Rules, Spec, UNUSED_GROUP, UNUSED_TOPIC},
    oracle::names::STALE,
};

/// A change of the catalogue is carried out within this.
const CHANGED: Duration = Duration::from_secs(20);
/// Messages are sent for so long to what lasts.
const SENDS_FOR: Duration = Duration::from_secs(6);
/// What is owed comes within this: an answer was lost, its lease is over, and it comes again, a few times.
const COMES: Duration = Duration::from_secs(90);
/// What was deleted is gone within this: a step each second for topics, then for what held dead letters, then the catalogue.
const GONE: Duration = Duration::from_secs(60);

impl World {
    /// All of it. A promise that is broken is told to the history.
    pub(super) async fn finale(&self) {
        let unused = [Name::topic(UNUSED_TOPIC), Name::group(UNUSED_GROUP)];
        for name in unused.iter().chain(&used()) {
            self.last_change(name).await;
        }
        sleep(STALE).await;
        for name in &unused {
            self.certainly(name, Request::Describe).await;
        }
        self.until("every node has the same catalogue", CHANGED, || {
            self.disagreements()
        })
        .await;
        // There is something for everybody, and nobody makes anything of these names any more.
        sleep(SENDS_FOR).await;
        let heir = Name::group(UNDERTAKERS[1]);
        let rules = Rules {
            max_attempts: 16,
            backoff_ms: vec![1_000],
            from_end: false,
        };
        self.certainly(&heir, Request::Create(Spec::Group(rules))).await;
        self.desk.release(&heir.name);
        self.until("what lasts is there", CHANGED, || self.missing())
            .await;
        for name in used().into_iter().chain(UNDERTAKERS.map(Name::group)) {
            if let Some(number) = self.number(&name) {
                self.record(Named::Lasting { name, number });
            }
        }
        sleep(SENDS_FOR).await;
        self.desk.no_more().await;
        self.until("everything owed has come", COMES, || self.history.owed_by_names())
            .await;
        self.until("nothing is left of what was deleted", GONE, || self.leftovers())
            .await;
    }

    /// Keeps what bears a name, gives it anew, or leaves that to its clients.
    async fn last_change(&self, name: &Name) {
        match thread_rng().gen_range(0..4) {
            0 => self.coverage.count("operator keeps a name"),
            1 => {
                self.coverage.count("operator leaves a name");
                self.desk.next_round(&name.name);
                self.certainly(name, Request::Delete).await;
            }
            _ => {
                self.coverage.count("operator gives a name anew");
                self.desk.next_round(&name.name);
                self.desk.hush(&name.name).await;
                self.certainly(name, Request::Delete).await;
                stay_away().await;
                self.certainly(name, Request::Create(draw(name))).await;
                self.desk.release(&name.name);
            }
        }
    }

    /// Asks until the answer is certain.
    async fn certainly(&self, name: &Name, request: Request) {
        let end = now() + CHANGED;
        loop {
            match self.ask(name, request.clone()).await {
                Answer::Unsure | Answer::NothingDone if now() < end => pause().await,
                Answer::Unsure | Answer::NothingDone => {
                    return self.history.broken(format!(
                        "names: {request:?} of {name:?} is not carried out within {CHANGED:?}, and there are no faults"
                    ));
                }
                _ => return,
            }
        }
    }

    /// Waits until nothing is found wrong.
    async fn until(&self, what: &str, patience: Duration, wrong: impl Fn() -> Vec<String>) {
        let end = now() + patience;
        loop {
            let found = wrong();
            if found.is_empty() {
                return;
            }
            if now() > end {
                let some = &found[..found.len().min(5)];
                return self
                    .history
                    .broken(format!("names: not within {patience:?}: {what}: {some:?}"));
            }
            pause().await;
        }
    }

    fn nodes(&self) -> Vec<Node> {
        self.hosts.iter().filter_map(Host::node).collect()
    }

    fn number(&self, name: &Name) -> Option<u32> {
        let nodes = self.nodes();
        let meta = nodes.first()?.meta();
        match name.kind {
            Kind::Topic => meta.topic(&name.name).map(|it| it.id),
            Kind::Group => meta.group(&name.name).map(|it| it.id),
        }
    }

    /// Names that nothing bears, or not the same on every node.
    fn missing(&self) -> Vec<String> {
        let wanted = used().into_iter().chain(UNDERTAKERS.map(Name::group));
        let missing = wanted.filter(|name| self.number(name).is_none());
        let mut wrong: Vec<String> = missing.map(|name| format!("{name:?}")).collect();
        wrong.extend(self.disagreements());
        wrong
    }

    /// Nodes that list something else than the first one, or not what they have stored.
    fn disagreements(&self) -> Vec<String> {
        let services: Vec<_> = self.hosts.iter().filter_map(Host::service).collect();
        let mut wrong = Vec::new();
        for service in &services {
            let node = service.node();
            if service.list_topics() != services[0].list_topics()
                || service.list_groups() != services[0].list_groups()
            {
                wrong.push(format!("node {} lists other names than the first", node.id()));
            }
            wrong.extend(inconsistencies(node));
        }
        wrong
    }

    /// What the nodes still hold of what was deleted.
    fn leftovers(&self) -> Vec<String> {
        let mut wrong = self.disagreements();
        for node in &self.nodes() {
            let meta = node.meta();
            let id = node.id();
            wrong.extend(
                meta.deleted_topics_from(0)
                    .map(|it| format!("node {id}: deleted topic {} is not forgotten", it.name)),
            );
            wrong.extend(
                meta.deleted_groups_from(0)
                    .map(|it| format!("node {id}: deleted consumer group {} is not forgotten", it.name)),
            );
            for shard in node.shards() {
                shard.machine.read(|core| {
                    let topics = core.topics_from(0, usize::MAX).into_iter();
                    let strange = topics.filter(|topic| meta.topic_by_id(*topic).is_none());
                    wrong.extend(
                        strange.map(|it| format!("node {id}, shard {}: queues of topic {it}", shard.id)),
                    );
                    let groups = core.groups_from(queue_core::GroupId(0), usize::MAX).into_iter();
                    let strange = groups.filter(|group| meta.group_by_id(group.0).is_none());
                    wrong.extend(strange.map(|it| format!("node {id}, shard {}: of group {it:?}", shard.id)));
                });
            }
            wrong.extend(empty_orphans(node, &meta));
        }
        wrong
    }
}

fn used() -> Vec<Name> {
    let topics = TOPICS.into_iter().map(Name::topic);
    topics.chain(GROUPS.into_iter().map(Name::group)).collect()
}

/// What a node's catalogue has in memory and not in its state, and numbers that two names have.
fn inconsistencies(node: &Node) -> Vec<String> {
    let mut wrong = Vec::new();
    let (id, meta) = (node.id(), node.meta());
    if let Some(replica) = node.meta_replica() {
        let stored = replica.read_state(|state| MetaState::load(&Reading(state)));
        if stored.is_ok_and(|stored| stored != *meta) {
            wrong.push(format!("node {id}: its catalogue is not the one it has stored"));
        }
    }
    let topics: BTreeSet<u32> = meta.topics().map(|it| it.id).collect();
    let groups: BTreeSet<u32> = meta.groups().map(|it| it.id).collect();
    if topics.len() != meta.topics().count() || groups.len() != meta.groups().count() {
        wrong.push(format!("node {id}: a number is given twice"));
    }
    wrong
}

/// Dead-letter topics without a consumer group and without dead letters.
fn empty_orphans(node: &Node, meta: &MetaState) -> Vec<String> {
    let orphans = meta.topics().filter(|topic| {
        let owner = topic.name.strip_prefix(DEAD_LETTER_PREFIX);
        owner.is_some_and(|owner| meta.group(owner).is_none())
    });
    let holds = |topic: u32| {
        let shards = node.shards();
        shards.iter().any(|shard| {
            shard
                .machine
                .read(|core| core.queues_of(topic).into_values().any(|full| full))
        })
    };
    orphans
        .filter(|topic| !holds(topic.id))
        .map(|topic| format!("node {}: {} is empty and has no owner", node.id(), topic.name))
        .collect()
}

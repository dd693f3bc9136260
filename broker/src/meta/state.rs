//! The cluster's catalogue in memory, always equal to what is in the key-value state.
//!
//! Cloning shares everything; a command copies the small part that it changes, so that readers keep a consistent
//! picture without a lock.

use std::{collections::BTreeMap, sync::Arc};

use flotilla_proto::record::{
    Bootstrap, ConsumerGroup, MetaCommand, MetaHead, Node, Topic, meta_command::Command,
};
use queue_core::{Fault, KeyValue};

use super::{MetaRefusal, MetaReply, commands, keys, sorted::Sorted};

/// The dead-letter topic of a consumer group is named after it.
pub const DEAD_LETTER_PREFIX: &str = "%DLQ%";

/// The dead-letter topic of a consumer group.
#[must_use]
pub fn dead_letter_topic(group: &str) -> String {
    format!("{DEAD_LETTER_PREFIX}{group}")
}

/// Everything the cluster knows about itself. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetaState {
    head: Option<Arc<MetaHead>>,
    nodes: Arc<BTreeMap<u32, Node>>,
    topics: Arc<Named<Topic>>,
    groups: Arc<Named<ConsumerGroup>>,
    /// Of all topics, deleted ones included.
    queues: usize,
}

/// Things with an id and a name; the name is free again once a thing is deleted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Named<T> {
    by_id: Sorted<T>,
    by_name: Sorted<T>,
    /// Deleted ones, by id.
    deleted: Sorted<T>,
}

/// A [`Topic`] or a [`ConsumerGroup`].
pub(super) trait Thing {
    fn id(&self) -> u32;
    fn name(&self) -> &str;
    fn deleted(&self) -> bool;
}

impl Thing for Topic {
    fn id(&self) -> u32 {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn deleted(&self) -> bool {
        self.deleted
    }
}

impl Thing for ConsumerGroup {
    fn id(&self) -> u32 {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn deleted(&self) -> bool {
        self.deleted
    }
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Named {
            by_id: Sorted::default(),
            by_name: Sorted::default(),
            deleted: Sorted::default(),
        }
    }
}

impl MetaState {
    /// Rebuilds the catalogue from the key-value state.
    ///
    /// # Errors
    /// A state that cannot be read, or was written by a newer build.
    pub fn load(kv: &dyn KeyValue) -> Result<MetaState, Fault> {
        let head = kv.get(keys::HEAD)?.map(keys::value).transpose()?.map(Arc::new);
        let nodes = keys::all::<Node>(kv, keys::NODE)?
            .into_iter()
            .map(|node| (node.id, node))
            .collect();
        let (mut topics, mut queues) = (Named::default(), 0);
        for topic in keys::all::<Topic>(kv, keys::TOPIC)? {
            queues += topic.queue_shards.len();
            topics.set(topic);
        }
        let mut groups = Named::default();
        for group in keys::all::<ConsumerGroup>(kv, keys::GROUP)? {
            groups.set(group);
        }
        Ok(MetaState {
            head,
            nodes: Arc::new(nodes),
            topics: Arc::new(topics),
            groups: Arc::new(groups),
            queues,
        })
    }

    /// Carries out one command, in memory and in `kv`. `time_ms` is the leader's, for the records.
    ///
    /// # Errors
    /// The key-value state failed; what is in memory is then worth nothing.
    pub fn apply(
        &mut self,
        kv: &mut dyn KeyValue,
        time_ms: u64,
        command: &MetaCommand,
    ) -> Result<MetaReply, Fault> {
        let Some(command) = &command.command else {
            return Err(Fault::Newer(
                "a meta command this build does not know: upgrade this node".into(),
            ));
        };
        let done = match command {
            Command::Bootstrap(command) => commands::bootstrap::apply(self, kv, command)?,
            _ if self.head.is_none() => Err(MetaRefusal::NotBootstrapped),
            Command::RegisterNode(command) => commands::register_node::apply(self, kv, command)?,
            Command::CreateTopic(command) => commands::create_topic::apply(self, kv, time_ms, command)?,
            Command::DeleteTopic(command) => commands::delete_topic::apply(self, kv, command)?,
            Command::CreateConsumerGroup(command) => {
                commands::create_consumer_group::apply(self, kv, time_ms, command)?
            }
            Command::DeleteConsumerGroup(command) => {
                commands::delete_consumer_group::apply(self, kv, command)?
            }
            Command::PauseConsumerGroup(command) => commands::pause_consumer_group::apply(self, kv, command)?,
            Command::SetParking(command) => commands::set_parking::apply(self, kv, command)?,
            Command::Forget(command) => commands::forget::apply(self, kv, command)?,
            Command::DropDeadLetters(command) => commands::forget::dead_letters(self, kv, command)?,
        };
        Ok(done.unwrap_or_else(MetaReply::Refused))
    }

    /// The cluster's identity, once it is born.
    #[must_use]
    pub fn cluster(&self) -> Option<u64> {
        self.head.as_ref().map(|head| head.cluster)
    }

    /// The members of the cluster by node id.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<u32, Node> {
        &self.nodes
    }

    /// Data shards are numbered `1..=data_shards()`; 0 before the cluster is born.
    #[must_use]
    pub fn data_shards(&self) -> u32 {
        self.head.as_ref().map_or(0, |head| head.data_shards)
    }

    /// The nodes the cluster was born with, ascending.
    #[must_use]
    pub fn initial_nodes(&self) -> &[u32] {
        self.head.as_ref().map_or(&[], |head| &head.initial_nodes)
    }

    /// How many topics and consumer groups were deleted so far, and consumer groups paused or resumed: of two catalogues the newer one knows of more, or of as many.
    #[must_use]
    pub fn deletions(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.deletions)
    }

    /// The topic of this name, unless it is deleted.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.named(name).cloned()
    }

    /// The topic of this id, also while a deleted one is not yet forgotten.
    #[must_use]
    pub fn topic_by_id(&self, id: u32) -> Option<Arc<Topic>> {
        self.topics.numbered(id).cloned()
    }

    /// All topics that are not deleted, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.by_name.iter()
    }

    /// True if there was a topic of this id and it is deleted, or even forgotten. It stays so: ids are never used twice. Not
    /// of an id that this catalogue, which may be behind, has not given out yet.
    #[must_use]
    pub fn topic_is_gone(&self, id: u32) -> bool {
        let given_out = self.head.as_ref().map_or(0, |head| head.last_topic_id);
        id <= given_out && self.topics.numbered(id).is_none_or(|topic| topic.deleted)
    }

    /// The same of a consumer group.
    #[must_use]
    pub fn group_is_gone(&self, id: u32) -> bool {
        let given_out = self.head.as_ref().map_or(0, |head| head.last_group_id);
        id <= given_out && self.groups.numbered(id).is_none_or(|group| group.deleted)
    }

    /// Topics that are not deleted, by name, from this name on.
    pub fn topics_from(&self, name: &str) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics
            .by_name
            .from(move |topic| topic.name.as_str().cmp(name))
    }

    /// Deleted topics that are not forgotten, by id, from this id on.
    pub fn deleted_topics_from(&self, id: u32) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.deleted.from(move |topic| topic.id.cmp(&id))
    }

    /// Deleted consumer groups that are not forgotten, by id, from this id on.
    pub fn deleted_groups_from(&self, id: u32) -> impl Iterator<Item = &Arc<ConsumerGroup>> {
        self.groups.deleted.from(move |group| group.id.cmp(&id))
    }

    /// The consumer group of this name, unless it is deleted.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<Arc<ConsumerGroup>> {
        self.groups.named(name).cloned()
    }

    /// The consumer group of this id, also while a deleted one is not yet forgotten.
    #[must_use]
    pub fn group_by_id(&self, id: u32) -> Option<Arc<ConsumerGroup>> {
        self.groups.numbered(id).cloned()
    }

    /// All consumer groups that are not deleted, by name.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<ConsumerGroup>> {
        self.groups.by_name.iter()
    }

    /// Deleted consumer groups that the data shards have not forgotten yet, by id.
    pub fn deleted_groups(&self) -> impl Iterator<Item = &Arc<ConsumerGroup>> {
        self.groups.deleted.iter()
    }
}

/// Changes, for the commands only: memory and key-value state together.
impl MetaState {
    /// True if nothing was changed since one was cloned from the other.
    pub(super) fn shares_all_with(&self, other: &MetaState) -> bool {
        let heads = match (&self.head, &other.head) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        heads
            && Arc::ptr_eq(&self.nodes, &other.nodes)
            && Arc::ptr_eq(&self.topics, &other.topics)
            && Arc::ptr_eq(&self.groups, &other.groups)
    }

    /// Topics and their queues, deleted ones included until they are forgotten.
    pub(super) fn count_topics(&self) -> (usize, usize) {
        (self.topics.by_id.len(), self.queues)
    }

    /// Consumer groups, deleted ones included until they are forgotten.
    pub(super) fn count_groups(&self) -> usize {
        self.groups.by_id.len()
    }

    /// True if there are no ids left for another topic and another consumer group.
    pub(super) fn ids_are_used_up(&self) -> bool {
        let head = self.born();
        head.last_topic_id == u32::MAX || head.last_group_id == u32::MAX
    }

    pub(super) fn begin(&mut self, kv: &mut dyn KeyValue, command: &Bootstrap) -> Result<(), Fault> {
        let mut initial_nodes: Vec<u32> = command.nodes.iter().map(|node| node.id).collect();
        initial_nodes.sort_unstable();
        let head = MetaHead {
            cluster: command.cluster,
            data_shards: command.data_shards,
            initial_nodes,
            last_topic_id: 0,
            last_group_id: 0,
            deletions: 0,
        };
        self.put_head(kv, head)
    }

    pub(super) fn put_node(&mut self, kv: &mut dyn KeyValue, node: Node) -> Result<(), Fault> {
        keys::put(kv, &keys::numbered(keys::NODE, node.id), &node)?;
        Arc::make_mut(&mut self.nodes).insert(node.id, node);
        Ok(())
    }

    pub(super) fn next_topic_id(&mut self, kv: &mut dyn KeyValue) -> Result<u32, Fault> {
        let mut head = self.born().clone();
        plant!(TopicIdFromCount => head.last_topic_id = self.topics.by_id.len() as u32);
        head.last_topic_id = head.last_topic_id.checked_add(1).expect("topic ids are used up");
        let id = head.last_topic_id;
        self.put_head(kv, head)?;
        Ok(id)
    }

    pub(super) fn next_group_id(&mut self, kv: &mut dyn KeyValue) -> Result<u32, Fault> {
        let mut head = self.born().clone();
        head.last_group_id = head
            .last_group_id
            .checked_add(1)
            .expect("consumer group ids are used up");
        let id = head.last_group_id;
        self.put_head(kv, head)?;
        Ok(id)
    }

    /// Marks a topic as deleted; its name is free.
    pub(super) fn delete_topic(&mut self, kv: &mut dyn KeyValue, topic: &Topic) -> Result<(), Fault> {
        let deleted = Topic {
            deleted: true,
            ..topic.clone()
        };
        self.put_topic(kv, deleted)?;
        self.count_change(kv)
    }

    /// The same of a consumer group.
    pub(super) fn delete_group(&mut self, kv: &mut dyn KeyValue, group: &ConsumerGroup) -> Result<(), Fault> {
        let deleted = ConsumerGroup {
            deleted: true,
            version: group.version + 1,
            ..group.clone()
        };
        self.put_group(kv, deleted)?;
        self.count_change(kv)
    }

    /// Something changed after which an older catalogue must not let a consumer group begin.
    pub(super) fn count_change(&mut self, kv: &mut dyn KeyValue) -> Result<(), Fault> {
        let mut head = self.born().clone();
        head.deletions += 1;
        self.put_head(kv, head)
    }

    pub(super) fn put_topic(&mut self, kv: &mut dyn KeyValue, topic: Topic) -> Result<Arc<Topic>, Fault> {
        keys::put(kv, &keys::numbered(keys::TOPIC, topic.id), &topic)?;
        if self.topics.numbered(topic.id).is_none() {
            self.queues += topic.queue_shards.len();
        }
        Ok(Arc::make_mut(&mut self.topics).set(topic))
    }

    pub(super) fn put_group(
        &mut self,
        kv: &mut dyn KeyValue,
        group: ConsumerGroup,
    ) -> Result<Arc<ConsumerGroup>, Fault> {
        keys::put(kv, &keys::numbered(keys::GROUP, group.id), &group)?;
        Ok(Arc::make_mut(&mut self.groups).set(group))
    }

    pub(super) fn remove_topic(&mut self, kv: &mut dyn KeyValue, id: u32) -> Result<(), Fault> {
        if let Some(topic) = self.topic_by_id(id) {
            kv.delete(&keys::numbered(keys::TOPIC, id))?;
            self.queues -= plant!(DeletedQueuesStillCount => 0, else topic.queue_shards.len());
            Arc::make_mut(&mut self.topics).remove(&*topic);
        }
        Ok(())
    }

    pub(super) fn remove_group(&mut self, kv: &mut dyn KeyValue, id: u32) -> Result<(), Fault> {
        if let Some(group) = self.group_by_id(id) {
            plant!(GroupRemovalLeavesItsRow => (), else kv.delete(&keys::numbered(keys::GROUP, id))?);
            Arc::make_mut(&mut self.groups).remove(&*group);
        }
        Ok(())
    }

    fn put_head(&mut self, kv: &mut dyn KeyValue, head: MetaHead) -> Result<(), Fault> {
        keys::put(kv, keys::HEAD, &head)?;
        self.head = Some(Arc::new(head));
        Ok(())
    }

    fn born(&self) -> &MetaHead {
        self.head
            .as_deref()
            .expect("commands before the bootstrap are refused")
    }
}

impl<T: Thing> Named<T> {
    fn numbered(&self, id: u32) -> Option<&Arc<T>> {
        self.by_id.get(|other| other.id().cmp(&id))
    }

    fn named(&self, name: &str) -> Option<&Arc<T>> {
        self.by_name.get(|other| other.name().cmp(name))
    }

    fn set(&mut self, thing: T) -> Arc<T> {
        let thing = Arc::new(thing);
        let (id, name) = (thing.id(), thing.name());
        self.by_id.set(thing.clone(), |other| other.id().cmp(&id));
        if thing.deleted() {
            self.deleted.set(thing.clone(), |other| other.id().cmp(&id));
            // The name may belong to a successor already.
            if self.named(name).is_some_and(|owner| owner.id() == id) {
                self.by_name.remove(|other| other.name().cmp(name));
            }
        } else {
            self.by_name.set(thing.clone(), |other| other.name().cmp(name));
        }
        thing
    }

    /// Forgets a deleted thing.
    fn remove(&mut self, thing: &T) {
        self.by_id.remove(|other| other.id().cmp(&thing.id()));
        self.deleted.remove(|other| other.id().cmp(&thing.id()));
    }
}

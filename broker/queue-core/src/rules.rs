//! How a consumer group treats its messages: one row a shard, whatever the number of its queues.

use bytes::BufMut;
use flotilla_proto::record::{Backoff, Subscribe};
use prost::Message as _;

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    keys::{self, Reader},
    kv::{Fault, KeyValue},
};

/// The rules of a consumer group that is on any queue of the shard.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Rules {
    /// Of the consumer group in the catalogue that says so. Older ones are not believed.
    pub(crate) version: u32,
    pub(crate) max_attempts: u32,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) dead_letter_queue: QueueId,
    /// Messages of one message group come in order. Never changes: what is in flight was delivered by it.
    pub(crate) fifo: bool,
    /// Nothing is delivered to it. What it has in flight is settled as ever.
    pub(crate) paused: bool,
    /// A message group stops at a message whose attempts are used up, until somebody decides. Else that is a dead letter.
    pub(crate) park: bool,
}

impl Rules {
    pub(crate) fn of(subscribe: &Subscribe) -> Self {
        let backoff = subscribe.backoff.clone();
        Self {
            version: subscribe.version,
            max_attempts: subscribe.max_attempts,
            // One without a strategy is none, and is stored as none.
            backoff: backoff.filter(|backoff| backoff.strategy.is_some()),
            dead_letter_queue: QueueId(subscribe.dead_letter_queue),
            fifo: subscribe.fifo,
            paused: subscribe.paused,
            park: subscribe.park,
        }
    }

    fn store(&self, kv: &mut dyn KeyValue, group: GroupId) -> Result<(), Fault> {
        let mut value = keys::value(19);
        value.put_u32_le(self.version);
        value.put_u32_le(self.max_attempts);
        value.put_u64_le(self.dead_letter_queue.0);
        value.put_u8(u8::from(self.fifo));
        value.put_u8(u8::from(self.paused));
        value.put_u8(u8::from(self.park));
        if let Some(backoff) = &self.backoff {
            backoff.encode(&mut value).expect("a vector grows");
        }
        kv.put(&keys::rules(group), &value)
    }

    fn load(mut value: Reader) -> Result<Self, Fault> {
        let version = value.short()?;
        let max_attempts = value.short()?;
        let dead_letter_queue = QueueId(value.long()?);
        let fifo = value.flag()?;
        let paused = value.flag()?;
        let paused = plant!(PauseForgottenAtRestart => false, else paused);
        let park = value.flag()?;
        let rest = value.rest();
        let backoff = if rest.is_empty() {
            None
        } else {
            Some(Backoff::decode(rest).map_err(|error| Fault::Corrupt(format!("rules: {error}")))?)
        };
        Ok(Self {
            version,
            max_attempts,
            backoff,
            dead_letter_queue,
            fifo,
            paused,
            park,
        })
    }
}

impl Core {
    /// The rules of a consumer group that is on a queue.
    pub(crate) fn rules(&self, group: GroupId) -> &Rules {
        self.rules
            .get(&group)
            .expect("a consumer group that is on a queue has rules")
    }

    /// True if nothing is delivered to a consumer group.
    pub(crate) fn is_paused(&self, group: GroupId) -> bool {
        self.rules.get(&group).is_some_and(|rules| rules.paused)
    }

    /// Takes over rules, unless newer ones are known.
    pub(crate) fn set_rules(
        &mut self,
        kv: &mut dyn KeyValue,
        group: GroupId,
        mut rules: Rules,
    ) -> Result<(), Fault> {
        let known = self.rules.get(&group);
        rules.fifo = known.map_or(rules.fifo, |known| known.fifo);
        if known.is_some_and(|known| *known == rules || known.version > rules.version) {
            return Ok(());
        }
        rules.store(kv, group)?;
        self.rules.insert(group, rules);
        Ok(())
    }

    /// Forgets the rules of a consumer group that is on no queue any more.
    pub(crate) fn drop_unused_rules(&mut self, kv: &mut dyn KeyValue, group: GroupId) -> Result<(), Fault> {
        if self.queues_of_group(group).next().is_some() {
            return Ok(());
        }
        self.rules.remove(&group);
        plant!(RulesLeftBehind => return Ok(()));
        kv.delete(&keys::rules(group))
    }

    /// Takes a row of the state; after those of the subscriptions.
    pub(crate) fn load_rules(&mut self, mut key: Reader, value: Reader) -> Result<(), Fault> {
        let group = GroupId(key.key_short()?);
        self.rules.insert(group, Rules::load(value)?);
        match self.queues_of_group(group).next() {
            Some(_) => Ok(()),
            None => Err(Fault::Corrupt(format!("{group:?} has rules and no queue"))),
        }
    }

    /// After the last row of rules.
    pub(crate) fn check_rules(&self) -> Result<(), Fault> {
        let mut groups = self.by_group.iter().map(|&(group, _)| group);
        match groups.find(|group| !self.rules.contains_key(group)) {
            Some(group) => Err(Fault::Corrupt(format!(
                "{group:?} is on a queue and has no rules"
            ))),
            None => Ok(()),
        }
    }
}

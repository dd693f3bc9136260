//! Pause and resume of a consumer group, and other rules of it that are changed. The catalogue says so, and every shard is told before it is answered: from then on
//! nothing is delivered, whoever leads, and whatever its catalogue knows by then.

use std::sync::Arc;

use flotilla_proto::{
    peer::PauseGroup,
    record::{self, Command, PauseConsumerGroup, command, configure, meta_command},
    rocketmq::Code,
};
use futures::{StreamExt, stream};
use queue_core::Reply;
use tokio::time::Instant;

use super::{
    Caller, Service,
    admin::{group_view, no_group, unexpected},
    answer::Refused,
    at_leader::{At, Try},
    names,
};
use crate::{
    limits::{PAUSE_PATIENCE, SEEK_AT_ONCE},
    meta::{MetaRefusal, MetaReply},
    node::{proposer::SubmitError, shard::DataShard},
    views::{AdminError, AdminErrorKind, GroupView},
};

/// The name under which a node tells a shard's leader.
pub(super) const RPC: &str = "flotilla.Pause";

impl Service {
    /// Delivers nothing more to a consumer group, or lets it go on. What it has in flight is settled as ever. To ask again does no
    /// harm, and is what to do if some shard was not told.
    pub async fn pause_group(&self, name: &str, paused: bool) -> Result<GroupView, AdminError> {
        let change = |known: &record::ConsumerGroup| {
            let pause = PauseConsumerGroup {
                id: known.id,
                version: known.version,
                paused,
            };
            (known.paused != paused).then_some(meta_command::Command::PauseConsumerGroup(pause))
        };
        self.change_rules(name, change).await
    }

    /// Changes rules of a consumer group as `change` says of what is known, if anything is to be changed, and tells every shard.
    pub(super) async fn change_rules(
        &self,
        name: &str,
        change: impl Fn(&record::ConsumerGroup) -> Option<meta_command::Command>,
    ) -> Result<GroupView, AdminError> {
        names::check_group(name)?;
        let node = self.node();
        node.catch_up_meta().await?;
        let known = node.meta().group(name).ok_or_else(|| no_group(name))?;
        let group = match change(&known) {
            None => known,
            Some(change) => self.change_in_catalogue(&known, change).await?,
        };
        let until = Instant::now() + PAUSE_PATIENCE;
        let tells = (1..=node.meta().data_shards()).map(|shard| {
            let pause = PauseGroup {
                group: group.id,
                version: group.version,
            };
            let caller = Caller {
                deadline: Some(until.saturating_duration_since(Instant::now())),
                ..Caller::default()
            };
            async move { (shard, self.pause_in(&caller, shard, pause).await) }
        });
        let tells =
            plant!(PauseInTheCatalogueOnly => tells.take(0).collect(), else tells.collect::<Vec<_>>());
        let told: Vec<(u32, Result<(), Refused>)> =
            stream::iter(tells).buffered(SEEK_AT_ONCE).collect().await;
        let open: Vec<u32> = told
            .iter()
            .filter(|(_, told)| told.is_err())
            .map(|&(shard, _)| shard)
            .collect();
        if open.is_empty() {
            return Ok(group_view(&group));
        }
        let open = format!(
            "consumer group {name} is changed in the catalogue, and shards {open:?} are not known to have heard of it; ask again"
        );
        Err(AdminError::new(AdminErrorKind::Unavailable, open))
    }

    async fn change_in_catalogue(
        &self,
        known: &record::ConsumerGroup,
        command: meta_command::Command,
    ) -> Result<Arc<record::ConsumerGroup>, AdminError> {
        match self.node().propose_meta(command).await? {
            MetaReply::Group(group) => {
                let is_known = |meta: &crate::meta::MetaState| {
                    let here = meta.group_by_id(group.id);
                    here.is_none_or(|here| here.version >= group.version)
                };
                self.node().wait_meta(is_known).await;
                Ok(group)
            }
            MetaReply::Refused(MetaRefusal::NotFound) => Err(no_group(&known.name)),
            other => Err(unexpected(other)),
        }
    }

    /// One shard, at its leader.
    pub(super) async fn pause_in(
        &self,
        caller: &Caller,
        shard: u32,
        pause: PauseGroup,
    ) -> Result<(), Refused> {
        let here = |shard, _| self.pause_here(shard, pause);
        match self.at_leader(caller, shard, RPC, &pause, here).await? {
            At::Here(()) | At::There(_) => Ok(()),
        }
    }

    /// The rules that a catalogue has which is new enough, whatever has happened since.
    async fn pause_here(&self, shard: Arc<DataShard>, pause: PauseGroup) -> Result<Try<()>, Refused> {
        let is_known = |meta: &crate::meta::MetaState| {
            let group = meta.group_by_id(pause.group);
            meta.group_is_gone(pause.group) || group.is_some_and(|group| group.version >= pause.version)
        };
        if !self.node().wait_meta(is_known).await {
            return Ok(Try::Elsewhere { unsure: false });
        }
        let meta = self.node().meta();
        let Some(group) = meta.group_by_id(pause.group) else {
            return Ok(Try::Done(()));
        };
        let rules = self.want_of(&meta, &group, shard.id).rules();
        let configure = record::Configure {
            what: Some(configure::What::Rules(rules)),
        };
        let command = Command {
            command: Some(command::Command::Configure(configure)),
        };
        match shard.proposer.submit(command).await {
            Ok(Reply::Configured { .. }) => Ok(Try::Done(())),
            Ok(other) => Err(Refused::new(
                Code::InternalServerError,
                format!("the shard answered a change of rules with {other:?}"),
            )),
            Err(SubmitError::NotLeader { unsure, .. }) => Ok(Try::Elsewhere { unsure }),
            Err(error) => Err(error.into()),
        }
    }
}

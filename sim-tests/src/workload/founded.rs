//! Topics and consumer groups that a workload has for itself.

use broker::views::{BackoffView, GroupSpec, StartAt, TopicSpec};

use super::pause;
use crate::host::Host;

/// A topic with so many queues that takes messages of one kind.
pub(super) fn topic(name: &str, queues: u32, message_type: &str) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        queues: Some(queues),
        message_type: message_type.into(),
        ageing_ms: None,
    }
}

/// A consumer group that gives nothing up while it is watched.
pub(super) fn group(name: &str) -> GroupSpec {
    GroupSpec {
        name: name.into(),
        max_attempts: Some(100),
        backoff: Some(BackoffView::Customized { next_ms: vec![500] }),
        fifo: false,
        start_at: StartAt::First,
        ..GroupSpec::default()
    }
}

/// Makes them at any node, until they are there.
pub(super) async fn make(hosts: &[Host], topic: TopicSpec, group: Option<GroupSpec>) {
    for host in hosts.iter().cycle() {
        if let Some(service) = host.service()
            && (service.create_topic(topic.clone()).await.is_ok()
                || service.describe_topic(&topic.name).await.is_ok())
        {
            let Some(group) = &group else { return };
            if service.create_group(group.clone()).await.is_ok()
                || service.describe_group(&group.name).await.is_ok()
            {
                return;
            }
        }
        pause().await;
    }
}

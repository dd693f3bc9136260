//! A leader of the catalogue that is cut off does not know that another one was elected, and clients still reach it. Whatever it says
//! of what was made meanwhile must not be that it does not exist.

use std::{sync::Arc, time::Duration};

use broker::{
    node::META_SHARD,
    service::Service,
    views::{AdminErrorKind, TopicSpec},
};
use madsim::time::TimeHandle;
use tokio::time::timeout;

use super::{Scene, await_true, last, network};
use crate::host::Host;

/// Until the others have a leader.
const ELECTED: Duration = Duration::from_secs(6);
const LOOK: Duration = Duration::from_millis(20);
/// A node that has no answer by then has none.
const LONGEST: Duration = Duration::from_secs(8);

pub(super) async fn ask_a_deposed_leader(scene: &Scene) -> bool {
    let Some(old) = scene.leader(META_SHARD) else {
        return false;
    };
    let cut = network::cut_off(scene, old);
    let leads = |host: &&Host| host.id != old.id && host.node().is_some_and(|node| node.leads(META_SHARD));
    let next = || scene.hosts.iter().find(leads);
    await_true(LOOK, ELECTED, || next().is_some()).await;
    if let Some((next, old)) = next().and_then(|next| Some((next.service()?, old.service()?))) {
        ask(scene, &next, &old).await;
    }
    last(0..3_000).await;
    cut.mend();
    true
}

/// Makes a topic at one node, and asks another one for it.
async fn ask(scene: &Scene, next: &Arc<Service>, old: &Arc<Service>) {
    let name = format!("unheard-of-{}", TimeHandle::current().elapsed().as_millis());
    let spec = TopicSpec {
        name: name.clone(),
        queues: Some(1),
        message_type: "NORMAL".into(),
        ageing_ms: None,
    };
    if !matches!(timeout(LONGEST, next.create_topic(spec)).await, Ok(Ok(_))) {
        return;
    }
    scene.coverage.count("deposed leader of the catalogue is asked");
    let answer = timeout(LONGEST, old.describe_topic(&name)).await;
    if matches!(&answer, Ok(Err(error)) if error.kind == AdminErrorKind::NotFound) {
        let id = old.node().id();
        scene.history.broken(format!(
            "names: node {id} says that {name} does not exist, which was made before it was asked"
        ));
    }
}

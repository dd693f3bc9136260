//! Append: one message at the end of a queue, once per message id.

use flotilla_proto::record::Append;

use crate::{
    core::{Context, Core},
    ids::QueueId,
    kv::{Fault, KeyValue},
    outcome::{Effect, Outcome, Reply},
    places::Arrival,
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    context: Context,
    append: &Append,
) -> Result<Outcome, Fault> {
    let queue = QueueId(append.queue);
    let known = core.dedup.find(queue.topic(), &append.message_id, core.now_ms);
    let known = plant!(DedupIgnored => None, else known);
    if let Some((queue, offset)) = known {
        return Ok(Reply::Appended {
            queue,
            offset,
            duplicate: true,
        }
        .into());
    }
    let arrival = Arrival {
        position: context.position,
        tag: append.tag,
        message_group: append.message_group,
        wall_ms: context.wall_ms,
        displaced: false,
    };
    let offset = core.push(kv, queue, arrival)?;
    core.dedup
        .remember(kv, &append.message_id, queue, offset, core.now_ms)?;
    Ok(Outcome {
        reply: Reply::Appended {
            queue,
            offset,
            duplicate: false,
        },
        effects: vec![Effect::Appended { queue }],
    })
}

//! CopyForward: a message that outlives its segment is read from this entry from now on.

use flotilla_proto::record::CopyForward;

use crate::{
    core::Core,
    ids::{Position, QueueId},
    kv::{Fault, KeyValue},
    outcome::{Outcome, Reply},
    queue::Message,
};

pub(crate) fn apply(
    core: &mut Core,
    kv: &mut dyn KeyValue,
    at: Position,
    copy: &CopyForward,
) -> Result<Outcome, Fault> {
    let queue = QueueId(copy.queue);
    let Some(message) = Message::get(kv, queue, copy.offset)? else {
        return Ok(Reply::Copied(false).into());
    };
    core.displace(kv, queue, copy.offset, &message, at)?;
    Ok(Reply::Copied(true).into())
}

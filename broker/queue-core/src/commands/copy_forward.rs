//! CopyForward: a message that outlives its segment is read from this entry from now on.

use flotilla_proto::record::CopyForward;

use crate::{
    core::Core,
    ids::{Position, QueueId},
    kv::{Fault, KeyValue},
    outcome::{Outcome, Reply},
    queue::Message,
    view::Stored,
};

pub(crate) fn apply(
    _core: &mut Core,
    kv: &mut dyn KeyValue,
    at: Position,
    copy: &CopyForward,
) -> Result<Outcome, Fault> {
    let queue = QueueId(copy.queue);
    let Some(message) = Message::get(kv, queue, copy.offset)? else {
        return Ok(Reply::Copied(false).into());
    };
    Message::delete(kv, queue, copy.offset)?;
    let stored = Stored {
        position: at,
        ..message.stored
    };
    Message {
        displaced: true,
        stored,
    }
    .put(kv, queue, copy.offset)?;
    Ok(Reply::Copied(true).into())
}

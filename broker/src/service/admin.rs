//! What administrators ask: the cluster, topics, consumer groups.

use super::answer::Refused;
use crate::{
    meta::{MetaRefusal, MetaReply},
    node::catalogue::CatalogueError,
    views::{AdminError, AdminErrorKind},
};

mod cluster;
mod groups;
mod metrics;
mod topics;

pub use groups::default_group;
pub(super) use {
    groups::{group_view, no_group},
    topics::no_topic,
};

pub(super) fn unexpected(reply: MetaReply) -> AdminError {
    let kind = match &reply {
        MetaReply::Refused(MetaRefusal::Exists) => AdminErrorKind::Exists,
        MetaReply::Refused(MetaRefusal::NotFound) => AdminErrorKind::NotFound,
        MetaReply::Refused(MetaRefusal::Limit(_)) => AdminErrorKind::Limit,
        MetaReply::Refused(MetaRefusal::Invalid(_)) => AdminErrorKind::Invalid,
        _ => AdminErrorKind::Unavailable,
    };
    let message = match reply {
        MetaReply::Refused(refusal) => refusal.to_string(),
        other => format!("unexpected reply of the meta shard: {other:?}"),
    };
    AdminError::new(kind, message)
}

impl From<CatalogueError> for AdminError {
    fn from(error: CatalogueError) -> Self {
        AdminError::new(AdminErrorKind::Unavailable, error.to_string())
    }
}

impl From<Refused> for AdminError {
    fn from(refused: Refused) -> Self {
        AdminError::new(AdminErrorKind::Invalid, refused.message)
    }
}

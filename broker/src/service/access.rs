//! One table that names every RPC, the right it needs, and whether this release serves it.
//!
//! Authentication comes with a later release; until then the table is what decides which
//! RPCs answer NOT_IMPLEMENTED, so that no RPC can be forgotten when rights are enforced.

use flotilla_proto::rocketmq::{Code, Status};

/// The right an RPC needs, on which kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Publish to the topic.
    PublishTopic,
    /// Receive from the topic with the consumer group.
    SubscribeTopicAndGroup,
    /// Act for the consumer group.
    SubscribeGroup,
    /// Publish to or receive from the topic.
    AnyOnTopic,
    /// Every client: only its own liveness is concerned.
    Everyone,
    /// An administrator.
    Administer,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// `Service/Rpc`, as in the path of the request.
    pub rpc: &'static str,
    /// What the caller must be allowed to do.
    pub right: Right,
    /// Served by this release.
    pub served: bool,
}

const fn served(rpc: &'static str, right: Right) -> Access {
    Access {
        rpc,
        right,
        served: true,
    }
}

const fn later(rpc: &'static str, right: Right) -> Access {
    Access {
        rpc,
        right,
        served: false,
    }
}

/// Every RPC of both services.
pub const TABLE: &[Access] = &[
    served("MessagingService/QueryRoute", Right::AnyOnTopic),
    served("MessagingService/Heartbeat", Right::Everyone),
    served("MessagingService/SendMessage", Right::PublishTopic),
    served("MessagingService/QueryAssignment", Right::SubscribeTopicAndGroup),
    served("MessagingService/ReceiveMessage", Right::SubscribeTopicAndGroup),
    served("MessagingService/AckMessage", Right::SubscribeTopicAndGroup),
    served(
        "MessagingService/ForwardMessageToDeadLetterQueue",
        Right::SubscribeTopicAndGroup,
    ),
    served("MessagingService/PullMessage", Right::SubscribeTopicAndGroup),
    served("MessagingService/UpdateOffset", Right::SubscribeTopicAndGroup),
    served("MessagingService/GetOffset", Right::SubscribeTopicAndGroup),
    served("MessagingService/QueryOffset", Right::AnyOnTopic),
    served("MessagingService/EndTransaction", Right::PublishTopic),
    served("MessagingService/Telemetry", Right::Everyone),
    served("MessagingService/NotifyClientTermination", Right::Everyone),
    served("MessagingService/ChangeInvisibleDuration", Right::SubscribeGroup),
    served("MessagingService/RecallMessage", Right::PublishTopic),
    later(
        "MessagingService/SyncLiteSubscription",
        Right::SubscribeTopicAndGroup,
    ),
    later("Admin/ChangeLogLevel", Right::Administer),
    later("Admin/DescribeTopicStatus", Right::Administer),
    later("Admin/ListSubscription", Right::Administer),
    later("Admin/DescribeSubscription", Right::Administer),
    later("Admin/DeleteSubscription", Right::Administer),
    later("Admin/DescribeGroupAccumulation", Right::Administer),
    later("Admin/ListConsumerConnection", Right::Administer),
    later("Admin/ResetGroupOffset", Right::Administer),
    later("Admin/QueryMessage", Right::Administer),
    later("Admin/PrintThreadStackTrace", Right::Administer),
    later("Admin/VerifyMessage", Right::Administer),
    later("Admin/AdminSendMessage", Right::Administer),
    later("Admin/GetConsumerRunningInfo", Right::Administer),
    later("Admin/GetTopicRoute", Right::Administer),
    later("Admin/QueryTimeSpan", Right::Administer),
    later("Admin/GetProxyRuntimeStats", Right::Administer),
];

/// The status of an RPC that a later release serves.
pub fn not_implemented() -> Status {
    Status {
        code: Code::NotImplemented as i32,
        message: "this release does not serve the request yet".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_names_every_rpc_of_the_descriptors_once() {
        let set: prost_types::FileDescriptorSet =
            prost::Message::decode(flotilla_proto::DESCRIPTORS).expect("descriptors decode");
        let described: BTreeSet<String> = set
            .file
            .iter()
            .filter(|file| file.package() == "apache.rocketmq.v2")
            .flat_map(|file| &file.service)
            .flat_map(|service| {
                service
                    .method
                    .iter()
                    .map(move |method| format!("{}/{}", service.name(), method.name()))
            })
            .collect();
        let listed: BTreeSet<String> = TABLE.iter().map(|line| line.rpc.to_owned()).collect();
        assert_eq!(listed.len(), TABLE.len(), "a name stands twice");
        assert_eq!(listed, described);
    }
}

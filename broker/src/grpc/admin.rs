//! `apache.rocketmq.v2.Admin`: no SDK calls it and Flotilla administrates over HTTP, so every call
//! says NOT_IMPLEMENTED.

use flotilla_proto::rocketmq::{self as mq, admin_server::Admin};
use tonic::{Request, Response, Status, async_trait};

use crate::service::access::not_implemented;

/// The adapter.
#[derive(Clone)]
pub(super) struct NotImplemented;

macro_rules! not_implemented {
    ($($method:ident: $request:ident -> $response:ident;)*) => {
        #[async_trait]
        impl Admin for NotImplemented {
            /// The only answer of the interface that has no status.
            async fn change_log_level(
                &self,
                _: Request<mq::ChangeLogLevelRequest>,
            ) -> Result<Response<mq::ChangeLogLevelResponse>, Status> {
                Ok(Response::new(mq::ChangeLogLevelResponse { remark: not_implemented().message }))
            }

            $(async fn $method(&self, _: Request<mq::$request>) -> Result<Response<mq::$response>, Status> {
                let mut answer = mq::$response::default();
                answer.status = Some(not_implemented());
                Ok(Response::new(answer))
            })*
        }
    };
}

not_implemented! {
    describe_topic_status: DescribeTopicStatusRequest -> DescribeTopicStatusResponse;
    list_subscription: ListSubscriptionRequest -> ListSubscriptionResponse;
    describe_subscription: DescribeSubscriptionRequest -> DescribeSubscriptionResponse;
    delete_subscription: DeleteSubscriptionRequest -> DeleteSubscriptionResponse;
    describe_group_accumulation: DescribeGroupAccumulationRequest -> DescribeGroupAccumulationResponse;
    list_consumer_connection: ListConsumerConnectionRequest -> ListConsumerConnectionResponse;
    reset_group_offset: ResetGroupOffsetRequest -> ResetGroupOffsetResponse;
    query_message: ListMessageRequest -> ListMessageResponse;
    print_thread_stack_trace: PrintThreadStackTraceRequest -> PrintThreadStackTraceResponse;
    verify_message: VerifyMessageRequest -> VerifyMessageResponse;
    admin_send_message: AdminSendMessageRequest -> AdminSendMessageResponse;
    get_consumer_running_info: GetConsumerRunningInfoRequest -> GetConsumerRunningInfoResponse;
    get_topic_route: GetTopicRouteRequest -> GetTopicRouteResponse;
    query_time_span: QueryTimeSpanRequest -> QueryTimeSpanResponse;
    get_proxy_runtime_stats: GetProxyRuntimeStatsRequest -> GetProxyRuntimeStatsResponse;
}

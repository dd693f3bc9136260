//! `/v1/topics`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};

use super::{
    Api,
    error::{ApiError, Body, ErrorBody},
};
use crate::views::{TopicDetail, TopicSpec, TopicView};

/// Create a topic.
#[utoipa::path(
    post,
    path = "/v1/topics",
    request_body = TopicSpec,
    responses(
        (status = 201, body = TopicView),
        (status = 400, description = "The specification is wrong", body = ErrorBody),
        (status = 409, description = "The name is taken", body = ErrorBody),
        (status = 503, description = "No majority: try again", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    Body(spec): Body<TopicSpec>,
) -> Result<(StatusCode, Json<TopicView>), ApiError> {
    let topic = api.service.create_topic(spec).await?;
    Ok((StatusCode::CREATED, Json(topic)))
}

/// All topics, by name.
#[utoipa::path(get, path = "/v1/topics", responses((status = 200, body = Vec<TopicView>)))]
pub(super) async fn list(State(api): State<Api>) -> Json<Vec<TopicView>> {
    Json(api.service.list_topics())
}

/// One topic with its queues.
#[utoipa::path(
    get,
    path = "/v1/topics/{topic}",
    params(("topic" = String, Path, description = "Name of the topic")),
    responses((status = 200, body = TopicDetail), (status = 404, body = ErrorBody))
)]
pub(super) async fn describe(
    State(api): State<Api>,
    Path(topic): Path<String>,
) -> Result<Json<TopicDetail>, ApiError> {
    Ok(Json(api.service.describe_topic(&topic).await?))
}

/// Delete a topic and all its messages.
#[utoipa::path(
    delete,
    path = "/v1/topics/{topic}",
    params(("topic" = String, Path, description = "Name of the topic")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, body = ErrorBody),
        (status = 503, description = "No majority: try again", body = ErrorBody),
    )
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Path(topic): Path<String>,
) -> Result<StatusCode, ApiError> {
    api.service.delete_topic(&topic).await?;
    Ok(StatusCode::NO_CONTENT)
}

//! `/v1/consumer-groups`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};

use super::{
    Api,
    error::{ApiError, Body, ErrorBody},
};
use crate::views::{GroupDetail, GroupSpec, GroupView, SeekReport, SeekSpec};

/// Create a consumer group, and the topic of its dead letters.
#[utoipa::path(
    post,
    path = "/v1/consumer-groups",
    request_body = GroupSpec,
    responses(
        (status = 201, body = GroupView),
        (status = 400, description = "The specification is wrong", body = ErrorBody),
        (status = 409, description = "The name is taken", body = ErrorBody),
        (status = 503, description = "No majority: try again", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    Body(spec): Body<GroupSpec>,
) -> Result<(StatusCode, Json<GroupView>), ApiError> {
    let group = api.service.create_group(spec).await?;
    Ok((StatusCode::CREATED, Json(group)))
}

/// All consumer groups, by name.
#[utoipa::path(get, path = "/v1/consumer-groups", responses((status = 200, body = Vec<GroupView>)))]
pub(super) async fn list(State(api): State<Api>) -> Json<Vec<GroupView>> {
    Json(api.service.list_groups())
}

/// One consumer group with its lag per queue.
#[utoipa::path(
    get,
    path = "/v1/consumer-groups/{group}",
    params(("group" = String, Path, description = "Name of the consumer group")),
    responses((status = 200, body = GroupDetail), (status = 404, body = ErrorBody))
)]
pub(super) async fn describe(
    State(api): State<Api>,
    Path(group): Path<String>,
) -> Result<Json<GroupDetail>, ApiError> {
    Ok(Json(api.service.describe_group(&group).await?))
}

/// Let a consumer group go on from another message of a topic: replay, or pass over.
#[utoipa::path(
    post,
    path = "/v1/consumer-groups/{group}/seek",
    params(("group" = String, Path, description = "Name of the consumer group")),
    request_body = SeekSpec,
    responses(
        (status = 200, description = "Where it was and is in each queue, or why that is not known", body = SeekReport),
        (status = 400, description = "The specification is wrong", body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 503, description = "No majority: try again", body = ErrorBody),
    )
)]
pub(super) async fn seek(
    State(api): State<Api>,
    Path(group): Path<String>,
    Body(spec): Body<SeekSpec>,
) -> Result<Json<SeekReport>, ApiError> {
    Ok(Json(api.service.seek_group(&group, spec).await?))
}

/// Deliver nothing more to a consumer group until it is resumed. What it has in flight is settled as ever.
#[utoipa::path(
    post,
    path = "/v1/consumer-groups/{group}/pause",
    params(("group" = String, Path, description = "Name of the consumer group")),
    responses(
        (status = 200, description = "Nothing is delivered from now on", body = GroupView),
        (status = 404, body = ErrorBody),
        (status = 503, description = "Some shard has not heard of it: try again", body = ErrorBody),
    )
)]
pub(super) async fn pause(
    State(api): State<Api>,
    Path(group): Path<String>,
) -> Result<Json<GroupView>, ApiError> {
    Ok(Json(api.service.pause_group(&group, true).await?))
}

/// Deliver to a consumer group again.
#[utoipa::path(
    post,
    path = "/v1/consumer-groups/{group}/resume",
    params(("group" = String, Path, description = "Name of the consumer group")),
    responses(
        (status = 200, description = "It goes on", body = GroupView),
        (status = 404, body = ErrorBody),
        (status = 503, description = "Some shard has not heard of it: try again", body = ErrorBody),
    )
)]
pub(super) async fn resume(
    State(api): State<Api>,
    Path(group): Path<String>,
) -> Result<Json<GroupView>, ApiError> {
    Ok(Json(api.service.pause_group(&group, false).await?))
}

/// Delete a consumer group and what it has read.
#[utoipa::path(
    delete,
    path = "/v1/consumer-groups/{group}",
    params(("group" = String, Path, description = "Name of the consumer group")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, body = ErrorBody),
        (status = 503, description = "No majority: try again", body = ErrorBody),
    )
)]
pub(super) async fn delete(
    State(api): State<Api>,
    Path(group): Path<String>,
) -> Result<StatusCode, ApiError> {
    api.service.delete_group(&group).await?;
    Ok(StatusCode::NO_CONTENT)
}

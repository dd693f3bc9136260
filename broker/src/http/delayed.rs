//! `/v1/topics/{topic}/delayed`: messages that wait for their date.

use axum::{
    Json,
    extract::{Path, State},
};

use super::{
    Api,
    error::{ApiError, Body, ErrorBody},
};
use crate::views::{DelayedDone, DelayedPage, DelayedQuery, RecallSpec, RetimeSpec};

/// Messages of a topic that wait for their date, some at a time.
#[utoipa::path(
    post,
    path = "/v1/topics/{topic}/delayed",
    params(("topic" = String, Path, description = "Name of the topic")),
    request_body = DelayedQuery,
    responses(
        (status = 200, body = DelayedPage),
        (status = 400, description = "The question is wrong, or a queue has no leader now", body = ErrorBody),
        (status = 404, body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Path(topic): Path<String>,
    Body(query): Body<DelayedQuery>,
) -> Result<Json<DelayedPage>, ApiError> {
    Ok(Json(api.service.list_delayed(&topic, query).await?))
}

/// Recall a message that waits: it is never delivered.
#[utoipa::path(
    post,
    path = "/v1/topics/{topic}/delayed/recall",
    params(("topic" = String, Path, description = "Name of the topic")),
    request_body = RecallSpec,
    responses(
        (status = 200, body = DelayedDone),
        (status = 400, description = "The handle is wrong, or the message does not wait any more", body = ErrorBody),
        (status = 404, body = ErrorBody),
    )
)]
pub(super) async fn recall(
    State(api): State<Api>,
    Path(topic): Path<String>,
    Body(spec): Body<RecallSpec>,
) -> Result<Json<DelayedDone>, ApiError> {
    Ok(Json(api.service.recall_delayed(&topic, spec).await?))
}

/// Have a message that waits delivered at another time.
#[utoipa::path(
    post,
    path = "/v1/topics/{topic}/delayed/retime",
    params(("topic" = String, Path, description = "Name of the topic")),
    request_body = RetimeSpec,
    responses(
        (status = 200, body = DelayedDone),
        (status = 400, description = "The handle or the date is wrong", body = ErrorBody),
        (status = 404, description = "No such topic, or the message does not wait any more", body = ErrorBody),
    )
)]
pub(super) async fn retime(
    State(api): State<Api>,
    Path(topic): Path<String>,
    Body(spec): Body<RetimeSpec>,
) -> Result<Json<DelayedDone>, ApiError> {
    Ok(Json(api.service.retime_delayed(&topic, spec).await?))
}

//! `/v1/consumer-groups/{group}/dead-letters` and `/parked`: messages that could not be consumed.

use axum::{
    Json,
    extract::{Path, State},
};

use super::{
    Api,
    error::{ApiError, Body, ErrorBody},
};
use crate::views::{
    GroupView, LettersPage, LettersQuery, ParkedPage, ParkedQuery, PoisonSpec, RedriveReport, RedriveSpec,
    UnparkReport, UnparkSpec,
};

/// Dead letters of a consumer group, some at a time.
#[utoipa::path(
    post,
    path = "/v1/consumer-groups/{group}/dead-letters",
    params(("group" = String, Path, description = "Name of the consumer group")),
    request_body = LettersQuery,
    responses(
        (status = 200, body = LettersPage),
        (status = 400, description = "The question is wrong, or a shard has no leader now", body = ErrorBody),
        (status = 404, body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Path(group): Path<String>,
    Body(query): Body<LettersQuery>,
) -> Result<Json<LettersPage>, ApiError> {
    Ok(Json(api.service.list_letters(&group, query).await?))
}

/// Give dead letters back to the consumer group that they died in: one bounded step, to be repeated until it names no next one.
#[utoipa::path(
    post,
    path = "/v1/consumer-groups/{group}/dead-letters/redrive",
    params(("group" = String, Path, description = "Name of the consumer group")),
    request_body = RedriveSpec,
    responses(
        (status = 200, description = "What became of each", body = RedriveReport),
        (status = 400, description = "The specification is wrong, or a shard has no leader now", body = ErrorBody),
        (status = 404, body = ErrorBody),
    )
)]
pub(super) async fn redrive(
    State(api): State<Api>,
    Path(group): Path<String>,
    Body(spec): Body<RedriveSpec>,
) -> Result<Json<RedriveReport>, ApiError> {
    Ok(Json(api.service.redrive_letters(&group, spec).await?))
}

/// What becomes of a message of a message group whose attempts are used up, from now on.
#[utoipa::path(
    post,
    path = "/v1/consumer-groups/{group}/poison",
    params(("group" = String, Path, description = "Name of the consumer group")),
    request_body = PoisonSpec,
    responses(
        (status = 200, body = GroupView),
        (status = 400, description = "It does not consume in order", body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 503, description = "Some shard has not heard of it: try again", body = ErrorBody),
    )
)]
pub(super) async fn poison(
    State(api): State<Api>,
    Path(group): Path<String>,
    Body(spec): Body<PoisonSpec>,
) -> Result<Json<GroupView>, ApiError> {
    Ok(Json(api.service.set_poison(&group, spec.on_poison).await?))
}

/// Messages of a consumer group at which their message groups stopped, some at a time.
#[utoipa::path(
    post,
    path = "/v1/consumer-groups/{group}/parked",
    params(("group" = String, Path, description = "Name of the consumer group")),
    request_body = ParkedQuery,
    responses(
        (status = 200, body = ParkedPage),
        (status = 400, description = "The question is wrong, or a shard has no leader now", body = ErrorBody),
        (status = 404, body = ErrorBody),
    )
)]
pub(super) async fn parked(
    State(api): State<Api>,
    Path(group): Path<String>,
    Body(query): Body<ParkedQuery>,
) -> Result<Json<ParkedPage>, ApiError> {
    Ok(Json(api.service.list_parked(&group, query).await?))
}

/// Have a message group go on without the message at which it stopped, which is a dead letter from then on.
#[utoipa::path(
    post,
    path = "/v1/consumer-groups/{group}/parked/skip",
    params(("group" = String, Path, description = "Name of the consumer group")),
    request_body = UnparkSpec,
    responses(
        (status = 200, body = UnparkReport),
        (status = 400, description = "The handle is wrong", body = ErrorBody),
        (status = 404, description = "No such consumer group, or the message is not parked any more", body = ErrorBody),
        (status = 503, description = "It may have been done: look", body = ErrorBody),
    )
)]
pub(super) async fn skip(
    State(api): State<Api>,
    Path(group): Path<String>,
    Body(spec): Body<UnparkSpec>,
) -> Result<Json<UnparkReport>, ApiError> {
    Ok(Json(api.service.unpark(&group, spec, true).await?))
}

/// Have the message at which a message group stopped delivered again, with all its attempts.
#[utoipa::path(
    post,
    path = "/v1/consumer-groups/{group}/parked/release",
    params(("group" = String, Path, description = "Name of the consumer group")),
    request_body = UnparkSpec,
    responses(
        (status = 200, body = UnparkReport),
        (status = 400, description = "The handle is wrong", body = ErrorBody),
        (status = 404, description = "No such consumer group, or the message is not parked any more", body = ErrorBody),
        (status = 503, description = "It may have been done: look", body = ErrorBody),
    )
)]
pub(super) async fn release(
    State(api): State<Api>,
    Path(group): Path<String>,
    Body(spec): Body<UnparkSpec>,
) -> Result<Json<UnparkReport>, ApiError> {
    Ok(Json(api.service.unpark(&group, spec, false).await?))
}

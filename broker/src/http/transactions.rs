//! `/v1/topics/{topic}/transactions`: transactions that nobody has ended.

use axum::{
    Json,
    extract::{Path, State},
};

use super::{
    Api,
    error::{ApiError, Body, ErrorBody},
};
use crate::views::{ResolveSpec, TransactionDone, TransactionPage, TransactionQuery};

/// Transactions of a topic that nobody has ended, some at a time.
#[utoipa::path(
    post,
    path = "/v1/topics/{topic}/transactions",
    params(("topic" = String, Path, description = "Name of the topic")),
    request_body = TransactionQuery,
    responses(
        (status = 200, body = TransactionPage),
        (status = 400, description = "The question is wrong, or a queue has no leader now", body = ErrorBody),
        (status = 404, body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    Path(topic): Path<String>,
    Body(query): Body<TransactionQuery>,
) -> Result<Json<TransactionPage>, ApiError> {
    Ok(Json(api.service.list_transactions(&topic, query).await?))
}

/// End a transaction by hand.
#[utoipa::path(
    post,
    path = "/v1/topics/{topic}/transactions/resolve",
    params(("topic" = String, Path, description = "Name of the topic")),
    request_body = ResolveSpec,
    responses(
        (status = 200, body = TransactionDone),
        (status = 400, description = "The transaction id is wrong, or it has ended the other way before", body = ErrorBody),
        (status = 404, body = ErrorBody),
    )
)]
pub(super) async fn resolve(
    State(api): State<Api>,
    Path(topic): Path<String>,
    Body(spec): Body<ResolveSpec>,
) -> Result<Json<TransactionDone>, ApiError> {
    Ok(Json(api.service.resolve_transaction(&topic, spec).await?))
}

//! Health for orchestrators, metrics for Prometheus.

use axum::{
    extract::State,
    http::{HeaderName, header},
};

use super::{
    Api,
    error::{ApiError, ErrorBody},
    process,
};

/// The process runs.
#[utoipa::path(get, path = "/healthz/live", responses((status = 200, body = String)))]
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// The node serves clients.
#[utoipa::path(
    get,
    path = "/healthz/ready",
    responses((status = 200, body = String), (status = 503, description = "Not yet, with the reason", body = ErrorBody))
)]
pub(super) async fn ready(State(api): State<Api>) -> Result<String, ApiError> {
    api.service.ready().map_err(ApiError::unavailable)?;
    Ok(match api.service.damage() {
        // What is whole is served.
        Some(damage) => format!("ok, but {damage}\n"),
        None => "ok\n".to_owned(),
    })
}

/// Figures of this node in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(api): State<Api>) -> ([(HeaderName, &'static str); 1], String) {
    let mut text = api.service.metrics_text();
    api.rim.write(&mut text);
    process::write(&mut text);
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
}

//! `/v1/cluster`: nodes and shards.

use axum::{Json, extract::State};

use super::Api;
use crate::views::ClusterView;

/// The cluster as this node sees it.
#[utoipa::path(get, path = "/v1/cluster", responses((status = 200, body = ClusterView)))]
pub(super) async fn show(State(api): State<Api>) -> Json<ClusterView> {
    Json(api.service.cluster())
}

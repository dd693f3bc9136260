//! Administration over HTTP: a JSON API with its OpenAPI description, health and metrics. It asks
//! `service/` and shows what it says; `flotilla topic ...` and `flotilla group ...` are clients of it.

mod cluster;
mod consumer_groups;
mod delayed;
mod error;
mod health;
mod letters;
mod limits;
mod process;
mod topics;
mod transactions;
mod unread;

use std::{net::SocketAddr, pin::pin, sync::Arc};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    response::IntoResponse,
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use utoipa::OpenApi;

use crate::{
    grpc::RimStats,
    net::{self, Seat},
    service::Service,
    unread::Reader,
};

use error::ApiError;
pub(crate) use error::ErrorBody;
pub(crate) use limits::MAX_CONNECTIONS;

/// What the handlers need.
#[derive(Clone)]
struct Api {
    service: Service,
    rim: Arc<RimStats>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Flotilla",
        description = "Administration of a Flotilla cluster. Every node answers for the whole cluster.",
        license(name = "Apache-2.0")
    ),
    paths(
        cluster::show,
        topics::create,
        topics::list,
        topics::describe,
        topics::delete,
        delayed::list,
        delayed::recall,
        delayed::retime,
        transactions::list,
        transactions::resolve,
        consumer_groups::create,
        consumer_groups::list,
        consumer_groups::describe,
        consumer_groups::seek,
        consumer_groups::pause,
        consumer_groups::resume,
        consumer_groups::delete,
        letters::list,
        letters::redrive,
        letters::poison,
        letters::parked,
        letters::skip,
        letters::release,
        health::live,
        health::ready,
        health::metrics
    )
)]
struct Description;

/// The routes; [`Description`] names the same ones, which a test compares.
fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/cluster", get(cluster::show))
        .route("/v1/topics", get(topics::list).post(topics::create))
        .route("/v1/topics/{topic}", get(topics::describe).delete(topics::delete))
        .route("/v1/topics/{topic}/delayed", post(delayed::list))
        .route("/v1/topics/{topic}/delayed/recall", post(delayed::recall))
        .route("/v1/topics/{topic}/delayed/retime", post(delayed::retime))
        .route("/v1/topics/{topic}/transactions", post(transactions::list))
        .route(
            "/v1/topics/{topic}/transactions/resolve",
            post(transactions::resolve),
        )
        .route(
            "/v1/consumer-groups",
            get(consumer_groups::list).post(consumer_groups::create),
        )
        .route(
            "/v1/consumer-groups/{group}",
            get(consumer_groups::describe).delete(consumer_groups::delete),
        )
        .route("/v1/consumer-groups/{group}/seek", post(consumer_groups::seek))
        .route("/v1/consumer-groups/{group}/pause", post(consumer_groups::pause))
        .route(
            "/v1/consumer-groups/{group}/resume",
            post(consumer_groups::resume),
        )
        .route("/v1/consumer-groups/{group}/dead-letters", post(letters::list))
        .route(
            "/v1/consumer-groups/{group}/dead-letters/redrive",
            post(letters::redrive),
        )
        .route("/v1/consumer-groups/{group}/poison", post(letters::poison))
        .route("/v1/consumer-groups/{group}/parked", post(letters::parked))
        .route("/v1/consumer-groups/{group}/parked/skip", post(letters::skip))
        .route(
            "/v1/consumer-groups/{group}/parked/release",
            post(letters::release),
        )
        .route("/healthz/live", get(health::live))
        .route("/healthz/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route(
            "/openapi.json",
            get(|| async { axum::Json(Description::openapi()) }),
        )
        .route("/", get(index))
        .fallback(error::no_such_route)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(DefaultBodyLimit::max(limits::MAX_BODY_BYTES))
        .with_state(api)
}

async fn index() -> &'static str {
    "Flotilla: see /openapi.json for the API, /metrics, /healthz/ready.\n"
}

/// Serves administration until `stop`, then lets the open requests end.
pub async fn serve(listener: TcpListener, service: Service, rim: Arc<RimStats>, stop: CancellationToken) {
    let unread = service.unread().clone();
    let router = router(Api { service, rim });
    let serve = |socket, from, seat| {
        let reader = unread.reader();
        connection(socket, from, (seat, reader), router.clone(), stop.clone())
    };
    net::accept(listener, net::Places::here(0).http, stop.clone(), serve).await;
}

/// A request that is being answered.
struct Open(Arc<Seat>);

impl Open {
    fn new(seat: Arc<Seat>) -> Open {
        seat.begin();
        Open(seat)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn connection(
    socket: TcpStream,
    from: SocketAddr,
    (seat, reader): (Arc<Seat>, Arc<Reader>),
    router: Router,
    stop: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let gives_way = reader.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, seat, room) = (router.clone(), seat.clone(), reader.room());
        async move {
            match received(request).await {
                Ok(request) => {
                    let open = Open::new(seat);
                    let answer = router.call(request).await;
                    drop(open);
                    answer.map(|answer| unread::within(answer, room))
                }
                Err(refusal) => Ok(unread::within(refusal.into_response(), room)),
            }
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::HEADER_TIMEOUT)
            .max_buf_size(limits::MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(socket), service)
    );
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = gives_way.gives_way() => {
            debug!(%from, "closed an administrative connection whose answer nobody reads");
            return;
        }
        ended = connection.as_mut() => ended,
    };
    if let Err(error) = ended {
        debug!(%from, %error, "an administrative connection broke");
    }
}

/// The request with its whole body. Until that is here it is none: a connection on which nothing more comes is silent, and
/// gives way to others.
async fn received(request: Request<Incoming>) -> Result<Request<Full<Bytes>>, ApiError> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, limits::MAX_BODY_BYTES).collect();
    match time::timeout(limits::BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(Request::from_parts(head, Full::new(body.to_bytes()))),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::body_too_large()),
        Ok(Err(error)) => Err(ApiError::body_unreadable(&error.to_string())),
        Err(_) => Err(ApiError::body_late()),
    }
}

#[cfg(test)]
mod tests;

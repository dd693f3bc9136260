//! Errors as JSON: `{"error": {"code": "NOT_FOUND", "message": "..."}}`, and request bodies that
//! are refused in the same form.

use axum::{
    Json,
    extract::{FromRequest, Request, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::limits::{BODY_TIMEOUT, MAX_BODY_BYTES};
use crate::{
    limits::MAX_REASON_BYTES,
    views::{AdminError, AdminErrorKind},
};

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct ErrorBody {
    /// What went wrong.
    pub(crate) error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(crate) struct ErrorDetail {
    /// For programs: NOT_FOUND, ALREADY_EXISTS, INVALID, LIMIT_REACHED, UNAVAILABLE, ...
    pub(crate) code: String,
    /// For people: what is wrong and what to do.
    pub(crate) message: String,
}

/// A refusal on its way out.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MAX_REASON_BYTES));
        ApiError {
            status,
            code,
            message,
        }
    }

    pub(super) fn body_too_large() -> ApiError {
        let message = format!("a request's body has at most {MAX_BODY_BYTES} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", message)
    }

    pub(super) fn body_unreadable(why: &str) -> ApiError {
        let message = format!("the request's body cannot be read: {why}");
        ApiError::new(StatusCode::BAD_REQUEST, "INVALID", message)
    }

    pub(super) fn body_late() -> ApiError {
        let message = format!(
            "the rest of the request's body did not arrive within {} s",
            BODY_TIMEOUT.as_secs()
        );
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "BODY_LATE", message)
    }

    pub(super) fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
    }
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> ApiError {
        let (status, code) = match error.kind {
            AdminErrorKind::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            AdminErrorKind::Exists => (StatusCode::CONFLICT, "ALREADY_EXISTS"),
            AdminErrorKind::Invalid => (StatusCode::BAD_REQUEST, "INVALID"),
            AdminErrorKind::Limit => (StatusCode::UNPROCESSABLE_ENTITY, "LIMIT_REACHED"),
            AdminErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        };
        ApiError::new(status, code, error.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = ErrorDetail {
            code: self.code.to_owned(),
            message: self.message,
        };
        (self.status, Json(ErrorBody { error })).into_response()
    }
}

/// A JSON body that answers with our errors when it is not what it should be.
pub(super) struct Body<T>(pub(super) T);

impl<T, S> FromRequest<S> for Body<T>
where
    Json<T>: FromRequest<S, Rejection = JsonRejection>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, ApiError> {
        let refused = |rejection: JsonRejection| {
            let code = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => "BODY_TOO_LARGE",
                StatusCode::UNSUPPORTED_MEDIA_TYPE => "CONTENT_TYPE",
                _ => "INVALID",
            };
            ApiError::new(rejection.status(), code, rejection.body_text())
        };
        Json::from_request(request, state)
            .await
            .map(|Json(body)| Body(body))
            .map_err(refused)
    }
}

/// For paths that do not exist.
pub(super) async fn no_such_route() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "NO_SUCH_ROUTE",
        "nothing is served here; /openapi.json lists all routes",
    )
}

/// For methods a path does not have.
pub(super) async fn wrong_method() -> ApiError {
    let message = "this path does not have this method; /openapi.json lists all routes";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message)
}

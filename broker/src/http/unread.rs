//! Answers of the HTTP port count like those of the client port until their client has read them.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{body::Body, response::IntoResponse};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::Response;

use super::{error::ApiError, limits::ALWAYS_BYTES};
use crate::unread::Room;

/// An answer with room for it, or the refusal that there is none. All answers here are made whole.
pub(super) fn within(answer: Response<Body>, mut room: Room) -> Response<Within> {
    let bytes = answer.body().size_hint().exact().unwrap_or(0);
    let answer = if bytes <= ALWAYS_BYTES {
        room.settle(bytes);
        answer
    } else if room.grow(bytes) {
        answer
    } else {
        let refused = ApiError::unavailable("too many answers wait to be read: read them, then try again");
        refused.into_response()
    };
    answer.map(|body| Within { body, room })
}

/// A body whose pieces hold their room until they have left.
pub(super) struct Within {
    body: Body,
    room: Room,
}

impl http_body::Body for Within {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let room = &mut self.room;
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|bytes| {
                    // Of the refusal, or of an answer whose length was not known.
                    room.settle(room.bytes().max(bytes.len() as u64));
                    room.piece(bytes)
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::unread::Unread;

    #[test]
    fn small_answers_go_out_although_readers_hold_all_room_and_large_ones_are_refused() {
        let unread = Unread::new(100, 100);
        let status = |bytes: u64| {
            let answer = Response::new(Body::from(vec![b'a'; bytes as usize]));
            within(answer, unread.reader().room()).status()
        };
        assert_eq!(status(ALWAYS_BYTES), StatusCode::OK);
        assert_eq!(status(ALWAYS_BYTES + 1), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(unread.held(), 0, "what is dropped gives its room back");
    }
}

//! Requests that another node passed on: served here or refused, never passed on again.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::{
    peer::{ForwardRequest, ForwardResponse, LettersFound, ParkedFound, RetimeDone, SeekAnswer, UnparkDone},
    rocketmq::Status,
};
use futures::{FutureExt, future::BoxFuture};
use prost::Message;

use super::{Caller, Service, receive};
use crate::{node::forward::ForwardHandler, unread::Room};

impl ForwardHandler for Service {
    fn forwarded(&self, request: ForwardRequest) -> BoxFuture<'static, ForwardResponse> {
        let service = self.clone();
        async move { service.serve_forwarded(request).await }.boxed()
    }
}

impl Service {
    async fn serve_forwarded(&self, request: ForwardRequest) -> ForwardResponse {
        let caller = caller_of(&request);
        let shard = (request.shard != 0).then_some(request.shard);
        if shard.is_some_and(|shard| !self.node().leads(shard)) {
            return not_leader();
        }
        match request.rpc.as_str() {
            "SendMessage" => match decode(request.request) {
                Some(message) => match self.try_send(&caller, message, shard).await {
                    Ok(response) => one(&response),
                    Err(refused) if refused == super::send::not_leader() => not_leader(),
                    Err(refused) if refused == super::send::unsure() => unsure(),
                    Err(refused) => one(&flotilla_proto::rocketmq::SendMessageResponse {
                        status: refused.status(),
                        entries: Vec::new(),
                    }),
                },
                None => malformed(),
            },
            receive::LOOK => match decode(request.request) {
                Some(message) => {
                    self.answer_look(&caller, message, (request.tell, request.room))
                        .await
                }
                None => malformed(),
            },
            super::pull::RPC => match decode(request.request) {
                Some(pull) => {
                    let from = request.from.map_or(0, |from| from.node);
                    self.answer_pull_of(&caller, pull, (from, request.room)).await
                }
                None => malformed(),
            },
            receive::BEGIN => match decode(request.request) {
                Some(message) => self.answer_begin(&caller, message, request.shard).await,
                None => malformed(),
            },
            "AckMessage" => match decode(request.request) {
                Some(message) => {
                    let response = self.ack_message(&caller, message).await;
                    let status = response.entries.first().and_then(|entry| entry.status.clone());
                    moved(&status).unwrap_or_else(|| one(&response))
                }
                None => malformed(),
            },
            "ChangeInvisibleDuration" => match decode(request.request) {
                Some(message) => {
                    let response = self.change_invisible_duration(&caller, message).await;
                    moved(&response.status).unwrap_or_else(|| one(&response))
                }
                None => malformed(),
            },
            "ForwardMessageToDeadLetterQueue" => match decode(request.request) {
                Some(message) => {
                    let response = self.forward_message_to_dead_letter_queue(&caller, message).await;
                    moved(&response.status).unwrap_or_else(|| one(&response))
                }
                None => malformed(),
            },
            super::recall::RPC => match decode(request.request) {
                Some(message) => {
                    let response = self.recall_message(&caller, message).await;
                    moved(&response.status).unwrap_or_else(|| one(&response))
                }
                None => malformed(),
            },
            super::transaction::RPC => match decode(request.request) {
                Some(message) => {
                    let response = self.end_transaction(&caller, message).await;
                    moved(&response.status).unwrap_or_else(|| one(&response))
                }
                None => malformed(),
            },
            super::delayed::LOOK => match decode(request.request) {
                Some(look) => match self.look_for_delayed(&caller, request.shard, look).await {
                    Ok(found) => one(&found),
                    Err(refused) => moved(&refused.status()).unwrap_or_else(malformed),
                },
                None => malformed(),
            },
            super::delayed::RETIME => match decode(request.request) {
                Some(retime) => match self.retime(&caller, request.shard, retime).await {
                    Ok(done) => one(&done),
                    Err(refused) => moved(&refused.status()).unwrap_or_else(|| {
                        one(&RetimeDone {
                            refused: refused.message,
                            ..Default::default()
                        })
                    }),
                },
                None => malformed(),
            },
            super::seek::RPC => match decode(request.request) {
                Some(seek) => match self.seek_for(&caller, request.shard, seek).await {
                    Ok(answer) => one(&answer),
                    Err(refused) => moved(&refused.status()).unwrap_or_else(|| {
                        one(&SeekAnswer {
                            refused: refused.message,
                            ..Default::default()
                        })
                    }),
                },
                None => malformed(),
            },
            super::pause::RPC => match decode(request.request) {
                Some(pause) => match self.pause_in(&caller, request.shard, pause).await {
                    Ok(()) => one(&pause),
                    Err(refused) => moved(&refused.status()).unwrap_or_else(malformed),
                },
                None => malformed(),
            },
            super::letters::RPC => match decode(request.request) {
                Some(look) => match self.letters(&caller, request.shard, look).await {
                    Ok(found) => one(&found),
                    Err(refused) => moved(&refused.status()).unwrap_or_else(|| {
                        one(&LettersFound {
                            refused: refused.message,
                            ..Default::default()
                        })
                    }),
                },
                None => malformed(),
            },
            super::parking::LOOK => match decode(request.request) {
                Some(look) => match self.parked(&caller, request.shard, look).await {
                    Ok(found) => one(&found),
                    Err(refused) => moved(&refused.status()).unwrap_or_else(|| {
                        one(&ParkedFound {
                            refused: refused.message,
                            ..Default::default()
                        })
                    }),
                },
                None => malformed(),
            },
            super::parking::DECIDE => match decode(request.request) {
                Some(unpark) => match self.decide(&caller, request.shard, unpark).await {
                    Ok(done) => one(&done),
                    Err(refused) => moved(&refused.status()).unwrap_or_else(|| {
                        one(&UnparkDone {
                            refused: refused.message,
                            ..Default::default()
                        })
                    }),
                },
                None => malformed(),
            },
            // A newer node asks for something this release does not know.
            _ => malformed(),
        }
    }
}

fn caller_of(request: &ForwardRequest) -> Caller {
    let caller = request.caller.clone().unwrap_or_default();
    Caller {
        client_id: caller.client_id,
        language: caller.language,
        client_version: caller.client_version,
        namespace: caller.namespace,
        remote_host: caller.remote_host,
        deadline: Some(Duration::from_millis(request.deadline_ms)),
        forwarded: true,
        retried: caller.retried,
    }
}

fn decode<M: Message + Default>(bytes: Bytes) -> Option<M> {
    M::decode(bytes).ok()
}

fn one(response: &impl Message) -> ForwardResponse {
    ForwardResponse {
        responses: vec![response.encode_to_vec().into()],
        ..Default::default()
    }
}

pub(super) fn many<M: Message>(responses: &[M]) -> ForwardResponse {
    let responses = responses
        .iter()
        .map(|response| response.encode_to_vec().into())
        .collect();
    ForwardResponse {
        responses,
        ..Default::default()
    }
}

/// The same; the room is held until the answer has left.
pub(super) fn many_within<M: Message>(responses: &[M], mut room: Room) -> ForwardResponse {
    let mut answer = many(responses);
    room.settle(answer.responses.iter().map(|bytes| bytes.len() as u64).sum());
    for bytes in &mut answer.responses {
        *bytes = room.piece(std::mem::take(bytes));
    }
    answer
}

pub(super) fn not_leader() -> ForwardResponse {
    ForwardResponse {
        not_leader: true,
        ..Default::default()
    }
}

/// The answer to the other node, not to the client, if the shard has moved.
fn moved(status: &Option<Status>) -> Option<ForwardResponse> {
    if *status == super::send::not_leader().status() {
        Some(not_leader())
    } else if *status == super::send::unsure().status() {
        Some(unsure())
    } else {
        None
    }
}

/// The shard has another leader by now, and what this one began may still take effect.
fn unsure() -> ForwardResponse {
    ForwardResponse {
        not_leader: true,
        unsure: true,
        ..Default::default()
    }
}

/// No response at all: the asking node reports it as an internal error.
fn malformed() -> ForwardResponse {
    ForwardResponse::default()
}

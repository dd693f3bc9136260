//! Dead letters and parked messages, as administration asks for them: page by page, each message read back from the log.

use flotilla_proto::{
    peer::{
        LetterFound, LettersFound, LettersLook, MessageFound, NoteFound, ParkedFound, ParkedLook,
        ParkedMessage, ParkedPlace, UnparkDone, UnparkMessage, letter_found::Outcome,
    },
    record::{self, Command, LeaseRef, command, unpark},
};
use queue_core::{Fault, GroupId, LetterView, Note, Position, QueueId, RedriveResult, Reply, UnparkResult};

use super::{DataShard, DeliverError};
use crate::{
    limits::{COPY_READS_AT_ONCE, MAX_LETTERS_BYTES, MAX_LETTERS_PAGE},
    node::{kv::Reading, proposer::SubmitError},
};

impl DataShard {
    /// Dead letters of one queue, from an offset on: shown, or given back to the consumer group that they died in.
    pub(crate) async fn letters(&self, look: &LettersLook) -> Result<LettersFound, DeliverError> {
        // Where they are, and not where they were for a leader that is none any more: nothing to do would be believed.
        if look.redrive && !look.dry_run && self.replica.barrier().await.is_err() {
            return Err(DeliverError::Submit(SubmitError::NotLeader {
                leader: None,
                unsure: false,
            }));
        }
        let (page, next) = self.page_of_letters(look)?;
        let looked_at = page.len() as u32;
        let mut found = Vec::new();
        for view in page.into_iter().filter(|view| is_meant(look, view)) {
            found.push(letter_found(view));
        }
        let places = found.iter().map(|(letter, at)| (letter.at, *at)).collect();
        let messages = self.messages_at(QueueId(look.queue), places).await?;
        let mut letters: Vec<LetterFound> = found.into_iter().map(|(letter, _)| letter).collect();
        for letter in &mut letters {
            let message = messages.iter().find(|(at, _)| *at == letter.at);
            letter.message = message.map(|(_, message)| message.clone());
        }
        if look.redrive {
            let outcomes = self.redrive(look, &letters).await?;
            for (letter, outcome) in letters.iter_mut().zip(outcomes) {
                letter.outcome = outcome as i32;
            }
        }
        Ok(LettersFound {
            letters,
            next,
            looked_at,
            refused: String::new(),
        })
    }

    /// The page, and where the next one begins. What died before the time that is asked for is not looked at.
    fn page_of_letters(&self, look: &LettersLook) -> Result<(Vec<LetterView>, Option<u64>), Fault> {
        let queue = QueueId(look.queue);
        let limit = look.limit.clamp(1, MAX_LETTERS_PAGE) as usize;
        self.replica.read_state(|state| {
            self.machine.read(|core| {
                let from = match look.since_ms {
                    0 => look.from,
                    since_ms => look.from.max(core.offset_at(&Reading(state), queue, since_ms)?),
                };
                let mut page = core.letters_from(&Reading(state), queue, from, limit)?;
                let is_full = page.len() == limit;
                let fitting = fitting(look, &page);
                let is_cut = fitting < page.len();
                page.truncate(fitting);
                let last = page.last().filter(|_| is_full || is_cut);
                let next = last.filter(|last| !is_too_late(look, last));
                let next = next.map(|last| last.at.saturating_add(1));
                Ok((page, next))
            })
        })
    }

    /// Gives back what was found, or says what would become of it.
    async fn redrive(
        &self,
        look: &LettersLook,
        letters: &[LetterFound],
    ) -> Result<Vec<Outcome>, DeliverError> {
        let (queue, group) = (QueueId(look.queue), GroupId(look.group));
        if look.dry_run || letters.is_empty() {
            let looked = self.replica.read_state(|state| {
                let result = |letter: &LetterFound| {
                    self.machine
                        .read(|core| core.look_redrive(&Reading(state), group, (queue, letter.at), look.id))
                };
                letters.iter().map(result).collect::<Result<Vec<_>, Fault>>()
            })?;
            return Ok(looked.into_iter().map(outcome).collect());
        }
        let redrive = command::Command::Redrive(record::Redrive {
            group: look.group,
            queue: look.queue,
            offsets: letters.iter().map(|letter| letter.at).collect(),
            id: look.id,
        });
        let command = Command {
            command: Some(redrive),
        };
        match self.proposer.submit(command).await? {
            Reply::Redriven { results } => Ok(results.into_iter().map(outcome).collect()),
            _ => Ok(Vec::new()),
        }
    }

    /// Messages of a consumer group at which their message groups stopped, from a place on.
    pub(crate) async fn parked(&self, look: &ParkedLook) -> Result<ParkedFound, DeliverError> {
        let limit = look.limit.clamp(1, MAX_LETTERS_PAGE) as usize;
        let from = (QueueId(look.queue), look.offset);
        let page = self.replica.read_state(|state| {
            self.machine
                .read(|core| core.parked_from(&Reading(state), GroupId(look.group), from, limit))
        })?;
        let next = page.last().filter(|_| page.len() == limit);
        let next = next.map(|last| ParkedPlace {
            queue: last.queue.0,
            offset: last.offset.saturating_add(1),
        });
        let mut messages = Vec::with_capacity(page.len());
        for view in page {
            let read = self
                .messages_at(view.queue, vec![(view.offset, view.stored.position)])
                .await?;
            messages.push(ParkedMessage {
                queue: view.queue.0,
                offset: view.offset,
                nonce: view.nonce,
                attempt: view.attempt,
                blocked: view.blocked,
                notes: view.history.iter().map(note_found).collect(),
                message: read.into_iter().next().map(|(_, message)| message),
            });
        }
        Ok(ParkedFound {
            messages,
            next,
            refused: String::new(),
        })
    }

    /// Decides on a parked message. `retried`: an earlier try may have done so.
    pub(crate) async fn unpark(
        &self,
        unpark: &UnparkMessage,
        retried: bool,
    ) -> Result<UnparkDone, DeliverError> {
        let action = match unpark.skip {
            true => unpark::Action::Skip,
            false => unpark::Action::Release,
        };
        let command = command::Command::Unpark(record::Unpark {
            group: unpark.group,
            queue: unpark.queue,
            parked: vec![LeaseRef {
                offset: unpark.offset,
                nonce: unpark.nonce,
            }],
            action: action as i32,
        });
        let command = Command {
            command: Some(command),
        };
        let reply = self.proposer.submit(command).await?;
        let result = match reply {
            Reply::Unparked { results } => results.first().copied(),
            _ => None,
        };
        let refused = match result {
            Some(UnparkResult::NoPlace) => "its consumer group has no queue for dead letters in this shard",
            _ => "",
        };
        Ok(UnparkDone {
            done: result == Some(UnparkResult::Done),
            unsure: retried && result == Some(UnparkResult::Stale),
            refused: refused.to_owned(),
        })
    }

    /// What people are told of messages; those that cannot be read now are left out.
    async fn messages_at(
        &self,
        queue: QueueId,
        places: Vec<(u64, Position)>,
    ) -> Result<Vec<(u64, MessageFound)>, DeliverError> {
        let mut found = Vec::with_capacity(places.len());
        if places.is_empty() {
            return Ok(found);
        }
        let turn = self.machine.pull_reads().acquire().await;
        let _turn = turn.expect("nobody closes it");
        for some in places.chunks(COPY_READS_AT_ONCE) {
            let read = match self.read_at(queue, some.to_vec()).await {
                Ok(read) => read,
                Err(DeliverError::Unreadable(error)) => {
                    tracing::debug!(shard = self.id, %error, "a message that is to be shown cannot be read now");
                    continue;
                }
                Err(other) => return Err(other),
            };
            found.extend(read.into_iter().map(|(at, message)| (at, message_found(message))));
        }
        Ok(found)
    }
}

/// The first so many letters of a page of which those that are read have a bounded number of bytes in the log; at least one.
fn fitting(look: &LettersLook, page: &[LetterView]) -> usize {
    let mut left = MAX_LETTERS_BYTES;
    let fits = |view: &LetterView| {
        let bytes = match is_meant(look, view) {
            true => view.stored.position.frame_len as usize,
            false => 0,
        };
        let fits = bytes <= left;
        left = left.saturating_sub(bytes);
        fits
    };
    page.iter()
        .map(fits)
        .take_while(|fits| *fits)
        .count()
        .max(1)
        .min(page.len())
}

/// True if a letter passes the filters.
fn is_meant(look: &LettersLook, view: &LetterView) -> bool {
    let of_topic = look.topic == 0 || view.letter.queue.topic() == look.topic;
    let tagged = look.tag == 0 || view.stored.tag == look.tag;
    of_topic && tagged && view.stored.stored_ms >= look.since_ms && !is_too_late(look, view)
}

fn is_too_late(look: &LettersLook, view: &LetterView) -> bool {
    look.before_ms != 0 && view.stored.stored_ms >= look.before_ms
}

fn letter_found(view: LetterView) -> (LetterFound, Position) {
    let LetterView { at, stored, letter } = view;
    let found = LetterFound {
        at,
        queue: letter.queue.0,
        offset: letter.offset,
        stored_ms: letter.stored_ms,
        died_ms: stored.stored_ms,
        redriven_ms: letter.redriven_ms,
        noted: letter.noted,
        notes: letter.history.iter().map(note_found).collect(),
        message: None,
        group: letter.group.0,
        outcome: 0,
    };
    (found, stored.position)
}

fn note_found(note: &Note) -> NoteFound {
    NoteFound {
        attempt: note.attempt,
        wall_ms: note.wall_ms,
        client: note.client,
        what: note.what as u32,
        at_ms: note.at_ms,
    }
}

fn message_found(message: record::StoredMessage) -> MessageFound {
    MessageFound {
        message_id: message.message_id,
        topic: message.topic,
        tag: message.tag,
        keys: message.keys,
        born_ms: message.born_ms,
        body_bytes: message.body.len() as u64,
        message_group: message.message_group,
    }
}

fn outcome(result: RedriveResult) -> Outcome {
    match result {
        RedriveResult::Done => Outcome::Done,
        RedriveResult::Already => Outcome::Already,
        RedriveResult::Gone => Outcome::Gone,
        RedriveResult::AnotherGroup => Outcome::AnotherGroup,
        RedriveResult::NoQueue => Outcome::NoQueue,
        RedriveResult::Seeks => Outcome::Seeks,
        RedriveResult::Comes => Outcome::Comes,
        RedriveResult::ReadSince => Outcome::ReadSince,
        RedriveResult::Full => Outcome::Full,
    }
}

#[cfg(test)]
mod tests {
    use queue_core::{Letter, Stored};

    use super::*;

    fn view(stored_ms: u64, bytes: usize) -> LetterView {
        LetterView {
            at: 0,
            stored: Stored {
                position: Position {
                    index: 1,
                    frame_offset: 0,
                    frame_len: bytes as u32,
                },
                time_ms: 0,
                stored_ms,
                tag: 0,
                message_group: 0,
            },
            letter: Letter {
                group: GroupId(1),
                queue: QueueId(1),
                offset: 0,
                epoch: 0,
                stored_ms: 0,
                message_group: 0,
                redriven_ms: 0,
                redriven_by: 0,
                noted: 0,
                history: Vec::new(),
            },
        }
    }

    #[test]
    fn a_page_is_cut_where_its_messages_are_too_many_bytes_and_has_one_at_least() {
        let look = LettersLook {
            since_ms: 5,
            ..LettersLook::default()
        };
        let half = MAX_LETTERS_BYTES / 2;
        assert_eq!(fitting(&look, &[]), 0);
        assert_eq!(fitting(&look, &[view(5, half), view(5, half), view(5, 1)]), 2);
        assert_eq!(fitting(&look, &[view(5, half + 1), view(5, half), view(5, 1)]), 1);
        assert_eq!(fitting(&look, &[view(5, 3 * half), view(5, 1)]), 1);
        // What is not meant is not read.
        let others = [view(4, half), view(4, 3 * half), view(5, half)];
        assert_eq!(fitting(&look, &others), 3);
    }
}

//! Dead letters of a consumer group, as operators see them, and how they go back to the consumer group that they died in. Shard by
//! shard, each at its leader, in bounded steps: what a step did stands in the state, so a redrive that was cut short is asked for again.

use std::sync::Arc;

use flotilla_proto::{
    peer::{LetterFound, LettersFound, LettersLook, NoteFound, letter_found::Outcome},
    record,
    rocketmq::Code,
};
use prost::Message;
use queue_core::{QueueId, tag_hash};

use super::{
    Caller, Service,
    admin::no_group,
    answer::Refused,
    at_leader::{At, Try, undecodable},
    names,
    parking::patient,
};
use crate::{
    limits::{LETTERS_PAGE, MAX_LETTERS_PAGE},
    meta::dead_letter_topic,
    node::{
        proposer::SubmitError,
        shard::{DataShard, DeliverError},
    },
    views::{
        AdminError, AdminErrorKind, LetterView, LettersPage, LettersQuery, NoteKind, NoteView,
        RedriveOutcome, RedriveReport, RedriveSpec, RedrivenView,
    },
};

/// The name under which a node asks a shard's leader.
pub(super) const RPC: &str = "flotilla.Letters";

/// A page that is asked for: which queue of the dead-letter topic, and what in it.
struct Page {
    topic: Arc<record::Topic>,
    /// Number of the queue.
    queue: u32,
    shard: u32,
    look: LettersLook,
}

impl Service {
    /// Dead letters of a consumer group, some at a time. It need not exist any more.
    pub async fn list_letters(&self, group: &str, query: LettersQuery) -> Result<LettersPage, AdminError> {
        let (mut page, mut query) = (LettersPage::default(), query);
        let mut left = limit_of(&query);
        loop {
            query.limit = Some(left);
            let asked = self.page(group, &query).await?;
            let found = self.letters(&patient(), asked.shard, asked.look).await?;
            left -= found.looked_at.min(left);
            page.next = next_of(&asked, found.next);
            let views = found.letters.into_iter();
            page.letters
                .extend(views.map(|letter| self.letter_view(asked.queue, letter)));
            match &page.next {
                Some(next) if left > 0 => query.from = Some(next.clone()),
                _ => return Ok(page),
            }
        }
    }

    /// Gives dead letters back to the consumer group that they died in: one step, in one shard.
    pub async fn redrive_letters(&self, group: &str, spec: RedriveSpec) -> Result<RedriveReport, AdminError> {
        let mut asked = self.page(group, &spec.which).await?;
        if asked.look.group == 0 {
            return Err(no_group(group));
        }
        // 0 would say that it has no name.
        let id = spec.id.unwrap_or_else(|| self.node().clock().random_u64()).max(1);
        asked.look.redrive = true;
        asked.look.dry_run = spec.dry_run;
        asked.look.id = id;
        let found = self.letters(&patient(), asked.shard, asked.look).await?;
        let mut letters = Vec::with_capacity(found.letters.len());
        for letter in found.letters {
            let Some(outcome) = outcome(letter.outcome()) else {
                return Err(AdminError::new(
                    AdminErrorKind::Unavailable,
                    "the shard did not say what became of its dead letters; ask again with the same id",
                ));
            };
            let letter = self.letter_view(asked.queue, letter);
            letters.push(RedrivenView { letter, outcome });
        }
        Ok(RedriveReport {
            dry_run: spec.dry_run,
            id,
            letters,
            next: next_of(&asked, found.next),
        })
    }

    async fn page(&self, group: &str, query: &LettersQuery) -> Result<Page, AdminError> {
        names::check_group(group)?;
        let name = dead_letter_topic(group);
        let topic = self.existing_topic(&name).await.map_err(Refused::from)?;
        let topic = topic.ok_or_else(|| no_group(group))?;
        let meta = self.node().meta();
        let (queue, from) = match query.from.as_deref().map(place) {
            None => (0, 0),
            Some(Some(place)) => place,
            Some(None) => return Err(no_page()),
        };
        let &shard = topic.queue_shards.get(queue as usize).ok_or_else(no_page)?;
        let of_topic = match query.topic.as_deref() {
            None => 0,
            Some(name) => {
                names::check_topic(name)?;
                let known = self.existing_topic(name).await.map_err(Refused::from)?;
                known.ok_or_else(|| super::admin::no_topic(name))?.id
            }
        };
        let look = LettersLook {
            group: meta.group(group).map_or(0, |group| group.id),
            queue: QueueId::new(topic.id, queue).0,
            from,
            limit: limit_of(query),
            topic: of_topic,
            tag: query.tag.as_deref().map_or(0, tag_hash),
            since_ms: query.since_ms.unwrap_or(0),
            before_ms: query.before_ms.unwrap_or(0),
            redrive: false,
            dry_run: false,
            id: 0,
        };
        Ok(Page {
            topic,
            queue,
            shard,
            look,
        })
    }

    /// One step in one shard, here or elsewhere.
    pub(super) async fn letters(
        &self,
        caller: &Caller,
        shard: u32,
        look: LettersLook,
    ) -> Result<LettersFound, Refused> {
        let here = |shard: Arc<DataShard>, _| async move {
            match shard.letters(&look).await {
                Ok(found) => Ok(Try::Done(found)),
                Err(DeliverError::Submit(SubmitError::NotLeader { unsure, .. })) => {
                    Ok(Try::Elsewhere { unsure })
                }
                Err(error) => Err(self.not_delivered(error)),
            }
        };
        match self.at_leader(caller, shard, RPC, &look, here).await? {
            At::Here(found) => Ok(found),
            At::There(bytes) => {
                let found = LettersFound::decode(bytes).map_err(|_| undecodable())?;
                match found.refused.is_empty() {
                    true => Ok(found),
                    false => Err(Refused::new(Code::InternalServerError, found.refused)),
                }
            }
        }
    }

    fn letter_view(&self, dead_letter_queue: u32, found: LetterFound) -> LetterView {
        let meta = self.node().meta();
        let from = QueueId(found.queue);
        let topic = meta.topic_by_id(from.topic()).map(|topic| topic.name.clone());
        let message = found.message;
        let sent_to = message.as_ref().map(|message| message.topic.clone());
        LetterView {
            dead_letter_queue,
            dead_letter_offset: found.at,
            message_id: message.as_ref().map(|message| message.message_id.clone()),
            consumer_group: meta.group_by_id(found.group).map(|group| group.name.clone()),
            topic: topic.or(sent_to),
            queue: from.number(),
            offset: found.offset,
            born_ms: message.as_ref().map(|message| message.born_ms),
            stored_ms: found.stored_ms,
            died_ms: found.died_ms,
            redriven_ms: (found.redriven_ms != 0).then_some(found.redriven_ms),
            body_bytes: message.as_ref().map_or(0, |message| message.body_bytes),
            events: found.noted,
            history: found.notes.into_iter().filter_map(note_view).collect(),
            tag: message.as_ref().and_then(|message| message.tag.clone()),
            message_group: message.as_ref().and_then(|message| message.message_group.clone()),
            keys: message.map_or(Vec::new(), |message| message.keys),
        }
    }
}

fn limit_of(query: &LettersQuery) -> u32 {
    query.limit.unwrap_or(LETTERS_PAGE).clamp(1, MAX_LETTERS_PAGE)
}

fn no_page() -> AdminError {
    AdminError::new(AdminErrorKind::Invalid, "`from` is not the `next` of a page")
}

/// The queue and the offset at which a page begins.
fn place(text: &str) -> Option<(u32, u64)> {
    let (queue, offset) = text.split_once('/')?;
    Some((queue.parse().ok()?, offset.parse().ok()?))
}

/// Where the page after one begins: behind it, or in the next queue.
fn next_of(page: &Page, next: Option<u64>) -> Option<String> {
    let queue = page.queue + 1;
    match next {
        Some(next) => Some(format!("{}/{next}", page.queue)),
        None => ((queue as usize) < page.topic.queue_shards.len()).then(|| format!("{queue}/0")),
    }
}

/// As people see it; nothing if a newer node says what this release does not know.
pub(super) fn note_view(note: NoteFound) -> Option<NoteView> {
    let what = match note.what {
        1 => NoteKind::TimedOut,
        2 => NoteKind::Refused,
        3 => NoteKind::Departed,
        4 => NoteKind::GivenUp,
        5 => NoteKind::Skipped,
        6 => NoteKind::Released,
        7 => NoteKind::Redriven,
        _ => return None,
    };
    Some(NoteView {
        attempt: note.attempt,
        at_ms: note.wall_ms,
        client: (note.client != 0).then(|| format!("{:016x}", note.client)),
        what,
    })
}

fn outcome(outcome: Outcome) -> Option<RedriveOutcome> {
    Some(match outcome {
        Outcome::Unspecified => return None,
        Outcome::Done => RedriveOutcome::Redriven,
        Outcome::Already => RedriveOutcome::Already,
        Outcome::Gone => RedriveOutcome::Gone,
        Outcome::AnotherGroup => RedriveOutcome::AnotherGroup,
        Outcome::NoQueue => RedriveOutcome::NoQueue,
        Outcome::Seeks => RedriveOutcome::Seeks,
        Outcome::Comes => RedriveOutcome::Comes,
        Outcome::ReadSince => RedriveOutcome::ReadSince,
        Outcome::Full => RedriveOutcome::Full,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_where_the_one_before_ended_or_is_refused() {
        assert_eq!(place("3/17"), Some((3, 17)));
        for odd in ["", "3", "/", "3/x", "-1/0", "3/17/1", "99999999999/0"] {
            assert_eq!(place(odd), None, "{odd}");
        }
    }
}

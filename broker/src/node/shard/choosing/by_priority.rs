//! What a receive gets of a PRIORITY topic, whose queues are lanes of one shard (docs/adr/0025): all of them are looked at as they are at
//! one moment, and what comes first is leased, of several lanes by one entry.
//!
//! Nothing comes before what could not be looked at yet, because messages have to be read for a filter: it may come first.

use flotilla_proto::record::{Command, Cursor, Deliver, command};
use queue_core::{GroupId, LaneOffer, QueueId, Reply, Selection, Stored, in_turn, limits::LANES};
use raft_store::PayloadError;
use tokio::time::Instant;

use super::{Choice, DataShard, DeliverError, Runs, Sizing, Want};
use crate::{
    limits::{FILTER_LOOKS_FOR, MAX_RECEIVE_BYTES},
    node::{proposer::SubmitError, shard::Delivery},
    unread::Room,
};

/// What a lane has for a consumer.
#[derive(Default)]
struct Offer {
    queue: QueueId,
    first_new: u64,
    /// What waits and is due, and then what is new and passes the filter: offsets, and what the state knows of them.
    offsets: Vec<u64>,
    stored: Vec<Stored>,
    /// Of those, how many wait.
    due: usize,
    /// New messages as far as they were looked at.
    new: Runs,
    /// The first that was not, if there is one.
    unseen: Option<Stored>,
}

impl Offer {
    /// What is delivered when so many of the candidates are. What the filter does not let through is passed over as far as it stands
    /// before what is not delivered.
    fn taken(&self, count: usize) -> Choice {
        let mut fresh = count.saturating_sub(self.due) as u32;
        let mut new = Runs::default();
        for run in self.new.iter() {
            let some = if run.filtered {
                run.count
            } else {
                run.count.min(fresh)
            };
            new.add(run.filtered, some);
            if some < run.count {
                break;
            }
            fresh -= if run.filtered { 0 } else { some };
        }
        Choice {
            redeliver: self.offsets[..self.due.min(count)].to_vec(),
            first_new: self.first_new,
            new,
            more: self.unseen.is_some() && self.offsets.is_empty(),
            ..Choice::default()
        }
    }
}

impl DataShard {
    /// Leases what comes first in a PRIORITY topic. One delivery of a consumer group at a time in all of it: else who finds a higher
    /// lane taken would go on to a lower one.
    pub(in crate::node::shard) async fn deliver_by_priority(
        &self,
        topic: u32,
        ageing_ms: u64,
        want: &Want,
        room: &mut Room,
    ) -> Result<Vec<Delivery>, DeliverError> {
        let group = GroupId(want.group.id);
        let Some(turn) = self.take_turn(group, QueueId::new(topic, 0)) else {
            return Ok(Vec::new());
        };
        for lane in 0..LANES {
            self.subscribe_if_needed(QueueId::new(topic, lane), want).await?;
        }
        let now = self.now_ms();
        let choices = self.choose_by_priority(topic, ageing_ms, want, now, room).await?;
        if !choices.iter().any(|(_, choice)| choice.has_any()) {
            for (queue, choice) in &choices {
                self.tell_passed_over(*queue, want, choice).await?;
            }
            return Ok(Vec::new());
        }
        // As for every topic: nothing is leased for nobody.
        if want.give_up.is_some_and(|at| Instant::now() >= at) {
            return Ok(Vec::new());
        }
        let nonce = self.clock.random_u64();
        let unit = unit(&choices, |queue, choice| choice.to_lease(queue, want, now, nonce));
        let applied = self.proposer.enqueue_all(unit)?;
        let replies = applied
            .await
            .unwrap_or_else(|_| Err(SubmitError::Stopped("the shard is closed".into())))?;
        drop(turn);
        self.read_lanes(&choices, replies).await
    }

    /// Reads what was leased, the highest lane first.
    async fn read_lanes(
        &self,
        choices: &[(QueueId, Choice)],
        replies: Vec<Reply>,
    ) -> Result<Vec<Delivery>, DeliverError> {
        let mut read = Vec::with_capacity(choices.len());
        for ((queue, _), reply) in choices.iter().zip(replies) {
            let Reply::Delivered { leases } = reply else {
                continue;
            };
            let places = leases.iter().map(|lease| (lease.offset, lease.position));
            let messages = self.read_at(*queue, places.collect()).await;
            read.push(messages.map(|messages| super::super::paired(*queue, leases, messages)));
        }
        all_read(read)
    }

    /// Of each lane that has any, what to deliver or pass over, the highest first.
    async fn choose_by_priority(
        &self,
        topic: u32,
        ageing_ms: u64,
        want: &Want,
        now: u64,
        room: &mut Room,
    ) -> Result<Vec<(QueueId, Choice)>, DeliverError> {
        let mut sizing = Sizing {
            left: MAX_RECEIVE_BYTES,
            is_empty: true,
            room,
        };
        let again = self.again_by_priority(topic, want, &mut sizing)?;
        if !again.is_empty() {
            return Ok(again);
        }
        let (group, bound) = (GroupId(want.group.id), self.bounds.in_flight_per_queue);
        let offered = self
            .machine
            .read(|core| core.selectable_lanes(group, topic, now, ageing_ms, want.count, bound));
        let until_ms = self.time_ms() + FILTER_LOOKS_FOR.as_millis() as u64;
        let (mut offers, mut found) = (Vec::new(), 0);
        for (queue, selection) in offered.unwrap_or_default() {
            let offer = self.offer(queue, &selection, want, ageing_ms, until_ms).await?;
            found += offer.offsets.len();
            // Where waiting weighs nothing, what is below them is not needed. With a filter, what was found does not wait for a look
            // at lower lanes, which may be long.
            let enough = found >= want.count || (found > 0 && !want.filter.is_everything());
            let is_last = ageing_ms == 0 && (enough || offer.unseen.is_some());
            offers.push(offer);
            if is_last {
                break;
            }
        }
        let taken = take_first(&offers, ageing_ms, want.count, &mut sizing)?;
        let choices = offers.iter().zip(taken);
        let choices = choices.map(|(offer, count)| (offer.queue, offer.taken(count)));
        Ok(choices
            .filter(|(_, choice)| choice.has_any() || choice.new.len() > 0 || choice.more)
            .collect())
    }

    /// What a request that is repeated was given of the lanes already: the same once more.
    fn again_by_priority(
        &self,
        topic: u32,
        want: &Want,
        sizing: &mut Sizing<'_>,
    ) -> Result<Vec<(QueueId, Choice)>, DeliverError> {
        let mut again: Vec<(QueueId, Choice)> = Vec::new();
        let mut left = want.count;
        for lane in (0..LANES).rev().filter(|_| want.request != 0) {
            let queue = QueueId::new(topic, lane);
            let mut had = self.had(queue, want);
            had.truncate(left);
            if had.is_empty() {
                continue;
            }
            left -= had.len();
            match self.choose_again(queue, had, sizing) {
                Err(DeliverError::NoRoom) if !again.is_empty() => break,
                choice => again.push((queue, choice?)),
            }
        }
        Ok(again)
    }

    /// What a lane has, of what was selected in it: as much as is wanted.
    async fn offer(
        &self,
        queue: QueueId,
        selection: &Selection,
        want: &Want,
        ageing_ms: u64,
        until_ms: u64,
    ) -> Result<Offer, DeliverError> {
        let mut offer = Offer {
            queue,
            first_new: selection.first_new,
            ..Offer::default()
        };
        self.add_candidates(&mut offer, selection.redeliver.iter().copied())?;
        offer.due = offer.offsets.len();
        if want.filter.is_everything() {
            offer.new.add(false, selection.new_count);
        } else if selection.new_count > 0 {
            self.look_through(&mut offer, selection.new_count, want, ageing_ms, until_ms)
                .await?;
        }
        let mut fresh = Vec::new();
        let mut at = offer.first_new;
        for run in offer.new.iter() {
            let offsets = at..at + u64::from(run.count);
            at = offsets.end;
            fresh.extend(
                offsets
                    .filter(|_| !run.filtered)
                    .take(selection.new_count as usize),
            );
        }
        fresh.truncate(selection.new_count as usize);
        self.add_candidates(&mut offer, fresh.into_iter())?;
        Ok(offer)
    }

    fn add_candidates(
        &self,
        offer: &mut Offer,
        offsets: impl Iterator<Item = u64> + Clone,
    ) -> Result<(), DeliverError> {
        let stored = self.stored(offer.queue, offsets.clone())?;
        let found = offsets.zip(stored);
        for (offset, stored) in found.map_while(|(offset, stored)| Some((offset, stored?))) {
            offer.offsets.push(offset);
            offer.stored.push(stored);
        }
        Ok(())
    }

    /// Looks at new messages of a lane until enough of them pass the filter, there are no more, or it takes long. As with other topics,
    /// what was found is remembered, and one message is enough, unless age counts: then those behind it may come before others.
    async fn look_through(
        &self,
        offer: &mut Offer,
        most: u32,
        want: &Want,
        ageing_ms: u64,
        until_ms: u64,
    ) -> Result<(), DeliverError> {
        let key = (GroupId(want.group.id), offer.queue, want.filter.id());
        offer.new = self.looked.from(key, offer.first_new);
        loop {
            let passing = offer.new.iter().filter(|run| !run.filtered);
            if passing.map(|run| run.count).sum::<u32>() >= most {
                return Ok(());
            }
            if ageing_ms == 0 && (offer.due > 0 || offer.new.has_any()) {
                return Ok(());
            }
            let now = self.time_ms();
            let from = offer.first_new + offer.new.len();
            if offer.new.len() >= self.bounds.pass_over_most || now >= until_ms {
                let unseen = self.new_from(offer.queue, from, 1)?.pop();
                offer.unseen = plant!(UnseenLaneIsEmpty => None, else unseen);
                return Ok(());
            }
            let page = self.look(offer.queue, from, &want.filter, until_ms).await?;
            if page.len() == 0 {
                return Ok(());
            }
            page.iter().for_each(|run| offer.new.add(run.filtered, run.count));
            self.looked.remember(key, offer.first_new, offer.new.clone(), now);
            tokio::task::yield_now().await;
        }
    }
}

/// The commands that lease what was chosen, the highest lane first. Each but the first names where the lanes before it have to be
/// then: what was chosen of it was chosen because no more is left there.
fn unit(choices: &[(QueueId, Choice)], lease: impl Fn(QueueId, &Choice) -> Deliver) -> Vec<Command> {
    let mut above = Vec::new();
    let command = |(queue, choice): &(QueueId, Choice)| {
        let mut deliver = lease(*queue, choice);
        // What a request had already it gets again, whatever has become of the lanes.
        if choice.again.is_empty() {
            deliver.above.clone_from(&above);
            above.push(Cursor {
                queue: queue.0,
                cursor: choice.next(),
            });
        }
        Command {
            command: Some(command::Command::Deliver(deliver)),
        }
    };
    choices.iter().map(command).collect()
}

/// What was read of several lanes. What cannot be read of one now does not keep the others from their consumer; a fault that ends
/// the node does.
fn all_read(read: Vec<Result<Vec<Delivery>, DeliverError>>) -> Result<Vec<Delivery>, DeliverError> {
    let (mut delivered, mut unreadable) = (Vec::new(), None);
    for lane in read {
        match lane {
            Ok(deliveries) => delivered.extend(deliveries),
            Err(error @ (DeliverError::State(_) | DeliverError::Unreadable(PayloadError::Corrupt(_)))) => {
                return Err(error);
            }
            Err(error) => unreadable = Some(error),
        }
    }
    match unreadable {
        Some(error) if delivered.is_empty() => Err(error),
        _ => Ok(delivered),
    }
}

/// How many of each lane's candidates are delivered: those that come first in all lanes, as many as are wanted and fit.
fn take_first(
    offers: &[Offer],
    ageing_ms: u64,
    count: usize,
    sizing: &mut Sizing<'_>,
) -> Result<Vec<usize>, DeliverError> {
    let lanes = offers.iter().map(|offer| LaneOffer {
        lane: offer.queue.number(),
        messages: &offer.stored,
        unseen: offer.unseen,
    });
    let ranked = in_turn(lanes, ageing_ms);
    let mut taken = vec![0; offers.len()];
    let mut left = count;
    for (at, stored) in &ranked {
        if left == 0 || !sizing.fits(Some(*stored)) {
            break;
        }
        taken[*at] += 1;
        left -= 1;
    }
    match !ranked.is_empty() && left == count {
        true => Err(DeliverError::NoRoom),
        false => Ok(taken),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::record::StoredMessage;
    use queue_core::Fault;

    use super::*;

    fn one() -> Result<Vec<Delivery>, DeliverError> {
        Ok(vec![Delivery {
            queue: QueueId::new(1, 9),
            offset: 0,
            attempt: 1,
            nonce: 7,
            stored_ms: 0,
            message: StoredMessage::default(),
        }])
    }

    #[test]
    fn each_lane_names_where_those_above_it_have_to_be() {
        let mut new = Runs::default();
        new.add(true, 3);
        new.add(false, 2);
        let chosen = |lane, choice| (QueueId::new(1, lane), choice);
        let some = Choice {
            first_new: 7,
            new,
            ..Choice::default()
        };
        let due = Choice {
            redeliver: vec![4],
            first_new: 5,
            ..Choice::default()
        };
        let above = |choices: &[(QueueId, Choice)]| {
            let commands = unit(choices, |_, _| Deliver::default()).into_iter();
            let named = commands.map(|it| match it.command {
                Some(command::Command::Deliver(deliver)) => deliver.above,
                _ => unreachable!("all are deliveries"),
            });
            named.collect::<Vec<_>>()
        };
        let at = |lane, cursor| Cursor {
            queue: QueueId::new(1, lane).0,
            cursor,
        };
        let three = [chosen(9, some), chosen(5, due), chosen(2, Choice::default())];
        assert_eq!(
            above(&three),
            [vec![], vec![at(9, 12)], vec![at(9, 12), at(5, 5)]]
        );
        let again = || Choice {
            again: vec![1],
            ..Choice::default()
        };
        assert_eq!(above(&[chosen(9, again()), chosen(5, again())]), [vec![], vec![]]);
    }

    #[test]
    fn a_fault_that_ends_the_node_is_told_although_another_lane_was_read() {
        let corrupt = || DeliverError::Unreadable(PayloadError::Corrupt("a record".into()));
        let state = || DeliverError::State(Fault::Corrupt("a row".into()));
        for fault in [corrupt, state] {
            assert!(all_read(vec![one(), Err(fault())]).is_err());
            assert!(all_read(vec![Err(fault()), one()]).is_err());
        }
    }

    #[test]
    fn what_cannot_be_read_of_one_lane_now_keeps_nobody_from_the_others() {
        let gone = || DeliverError::Unreadable(PayloadError::NotFound(3));
        assert_eq!(all_read(vec![one(), Err(gone()), one()]).unwrap().len(), 2);
        assert!(all_read(vec![Err(gone())]).is_err());
    }
}

//! Priorities: the queues of a PRIORITY topic are lanes of one shard, and what is delivered next is looked for in all of them at
//! one moment, the highest lane first (docs/adr/0025).

use std::cmp::Reverse;

use crate::{
    core::Core,
    ids::{GroupId, QueueId},
    limits::LANES,
    view::{Selection, Stored},
};

/// Priorities that have a lane of their own, from 0 on: those that SDKs and their users write.
const OWN: i32 = 10;

/// The lane of a priority: the higher, the earlier. No priority is in a lower lane than a smaller one.
///
/// Lane 0 has all below 0, lanes 1 to 10 have 0 to 9, and each after them has one digit more, the last one all that is left.
pub fn lane_of(priority: i32) -> u32 {
    plant!(NegativeComesFirst => if priority < 0 { return LANES - 1 });
    match priority {
        i32::MIN..=-1 => 0,
        0..OWN => 1 + priority as u32,
        _ => (priority.ilog10() + OWN as u32).min(LANES - 1),
    }
}

/// The priorities of a lane, the least and the greatest.
pub fn priorities_of(lane: u32) -> (i32, i32) {
    let own = OWN as u32;
    let digits = |lane: u32| 10_i32.pow(lane - own);
    match lane {
        0 => (i32::MIN, -1),
        _ if lane <= own => (lane as i32 - 1, lane as i32 - 1),
        _ if lane + 1 >= LANES => (digits(LANES - 1), i32::MAX),
        _ => (digits(lane), digits(lane + 1) - 1),
    }
}

/// What a lane has for a consumer.
#[derive(Debug, Clone, Copy)]
pub struct LaneOffer<'a> {
    /// Number of the lane.
    pub lane: u32,
    /// What could be delivered, in the lane's order.
    pub messages: &'a [Stored],
    /// The first message behind them that was not looked at, if there is one.
    pub unseen: Option<Stored>,
}

/// In which order messages of several lanes come: the place of the lane in the list, and the message. Nothing comes before what was
/// not looked at, so it ends there.
pub fn in_turn<'a>(lanes: impl Iterator<Item = LaneOffer<'a>>, ageing_ms: u64) -> Vec<(usize, Stored)> {
    let (mut ranked, mut unseen) = (Vec::new(), None);
    for (at, offer) in lanes.enumerate() {
        let rank = |stored: &Stored| rank(offer.lane, stored, ageing_ms);
        let behind = offer.unseen.as_ref().map(rank);
        unseen = unseen.into_iter().chain(behind).min();
        let (mut least, from) = (behind, ranked.len());
        for message in offer.messages.iter().rev() {
            let own = rank(message);
            let key = least.map_or(own, |least| own.min(least));
            least = Some(key);
            ranked.push((key, at, *message));
        }
        ranked[from..].reverse();
    }
    // Those of a lane stay in their order, because what is taken of it is always its first: what stands before another comes no
    // later than that one. It may have been stored later, if it is a dead letter that was given back.
    ranked.sort_by_key(|&(rank, ..)| rank);
    let seen = ranked.into_iter();
    let seen = seen.take_while(|(rank, ..)| unseen.is_none_or(|unseen| *rank <= unseen));
    seen.map(|(_, at, stored)| (at, stored)).collect()
}

/// How early a message of a lane comes: the least first. With `ageing_ms`, so much of waiting weighs as one lane; which of two comes
/// first is thereby the same at all times, and one that waits is overtaken only by what is stored within `LANES` times that.
fn rank(lane: u32, stored: &Stored, ageing_ms: u64) -> (i128, Reverse<u32>) {
    let ageing_ms = plant!(AgeingForgotten => 0, else ageing_ms);
    let weight = match ageing_ms {
        0 => -i128::from(lane),
        _ => i128::from(stored.time_ms) - i128::from(lane) * i128::from(ageing_ms),
    };
    (weight, Reverse(lane))
}

impl Core {
    /// What a consumer group could be given of each lane of a topic at `now_ms`, at one moment, the highest lane first. Nothing while
    /// it has not begun on a lane that has been used: what is there would count as not there. With ageing, of more that is due in a
    /// lane than is wanted, what stands first in it counts, not what is due longest.
    pub fn selectable_lanes(
        &self,
        group: GroupId,
        topic: u32,
        now_ms: u64,
        ageing_ms: u64,
        max: usize,
        max_in_flight: usize,
    ) -> Option<Vec<(QueueId, Selection)>> {
        let lanes = (0..LANES).rev().map(|lane| QueueId::new(topic, lane));
        let used = lanes.filter(|queue| self.queues.contains_key(queue));
        let select = |queue: QueueId| {
            self.subscriptions.get(&(queue, group))?;
            let selection = match ageing_ms {
                0 => self.selectable(group, queue, now_ms, max, max_in_flight),
                _ => self.selectable_by_age(group, queue, now_ms, max, max_in_flight),
            };
            Some((queue, selection))
        };
        let mut all = used.map(select).collect::<Option<Vec<_>>>()?;
        plant!(RetriesLoseTheirLane => crate::planted::new_ones_first(&mut all));
        all.retain(|(_, it)| it.new_count > 0 || !it.redeliver.is_empty());
        Some(all)
    }

    /// What could be delivered of a lane, those that stand first in it. Of what is due all is looked at, which is no more than a
    /// consumer group may have in flight.
    fn selectable_by_age(
        &self,
        group: GroupId,
        queue: QueueId,
        now_ms: u64,
        max: usize,
        max_in_flight: usize,
    ) -> Selection {
        let mut all = self.selectable(group, queue, now_ms, u32::MAX as usize, max_in_flight);
        all.redeliver.truncate(max);
        let left = (max - all.redeliver.len()) as u32;
        all.new_count = all.new_count.min(left);
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_sdks_write_has_lanes_of_its_own() {
        let lanes: Vec<u32> = (-1..=10).map(lane_of).collect();
        assert_eq!(lanes, (0..=11).collect::<Vec<_>>());
        let decades = [99, 100, 999, 1_000, 9_999, 10_000, 99_999, 100_000, i32::MAX];
        assert_eq!(decades.map(lane_of), [11, 12, 12, 13, 13, 14, 14, 15, 15]);
        assert_eq!(lane_of(i32::MIN), 0);
    }

    #[test]
    fn lanes_have_all_priorities_without_a_gap() {
        let mut next = i64::from(i32::MIN);
        for lane in 0..LANES {
            let (least, greatest) = priorities_of(lane);
            assert_eq!(i64::from(least), next, "lane {lane}");
            assert_eq!((lane_of(least), lane_of(greatest)), (lane, lane));
            next = i64::from(greatest) + 1;
        }
        assert_eq!(next, i64::from(i32::MAX) + 1);
    }

    fn stored_at(time_ms: u64) -> Stored {
        Stored {
            position: crate::ids::Position::default(),
            time_ms,
            stored_ms: time_ms,
            tag: 0,
            message_group: 0,
        }
    }

    #[test]
    fn of_a_lane_its_first_come_first_although_one_of_them_was_stored_anew() {
        let (upper, lower) = ([stored_at(1_000), stored_at(10)], [stored_at(20)]);
        let offer = |lane, messages| LaneOffer {
            lane,
            messages,
            unseen: None,
        };
        let came = in_turn([offer(5, &upper[..]), offer(4, &lower[..])].into_iter(), 5);
        let came: Vec<_> = came.into_iter().map(|(at, it)| (at, it.time_ms)).collect();
        assert_eq!(came, [(0, 1_000), (0, 10), (1, 20)]);
        let unseen = LaneOffer {
            unseen: Some(upper[1]),
            ..offer(5, &upper[..1])
        };
        let came = in_turn([unseen, offer(4, &lower[..])].into_iter(), 5);
        assert_eq!(came.len(), 1, "nothing comes before what stands behind it");
        assert_eq!(came[0].0, 0);
    }

    proptest! {
        #[test]
        fn no_order_is_inverted(a: i32, b: i32) {
            prop_assert!(a.min(b) == a.max(b) || lane_of(a.min(b)) <= lane_of(a.max(b)));
        }
    }
}

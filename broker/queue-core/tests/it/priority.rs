//! PRIORITY topics: what is chosen of all lanes at one moment, against a model that looks at every message.

use std::collections::BTreeMap;

use flotilla_proto::record::{Cursor, Deliver, StartAt, configure, release::Action};
use proptest::prelude::*;
use queue_core::{GroupId, LaneOffer, QueueId, Stored, in_turn, lane_of, limits::LANES};

use crate::support::{DLQ, G, LEASE_MS, Shard, configure, release, subscription, taken};

const TOPIC: u32 = 3;

fn lane(number: u32) -> u64 {
    QueueId::new(TOPIC, number).0
}

fn prepared() -> Shard {
    let mut shard = Shard::new();
    for number in 0..LANES {
        begin(&mut shard, number);
    }
    shard
}

fn begin(shard: &mut Shard, number: u32) {
    let subscribe = subscription(G, lane(number), StartAt::First, 1_000, DLQ);
    shard.apply(configure(configure::What::Subscribe(subscribe)));
}

/// What a leader would lease now: lane and offset, in their turn.
fn take(shard: &mut Shard, max: usize, ageing_ms: u64, nonce: u64) -> Vec<(u32, u64)> {
    let selected = shard
        .core
        .selectable_lanes(GroupId(G), TOPIC, shard.now_ms, ageing_ms, max, usize::MAX)
        .expect("it has begun on all lanes");
    let stored = |queue: QueueId, offset| shard.core.locate(&shard.kv, queue, offset).unwrap().unwrap();
    let mut offsets = Vec::new();
    let mut lanes: Vec<(u32, Vec<Stored>)> = Vec::new();
    for (queue, it) in &selected {
        let new = it.first_new..it.first_new + u64::from(it.new_count);
        let all: Vec<u64> = it.redeliver.iter().copied().chain(new).collect();
        lanes.push((
            queue.number(),
            all.iter().map(|&offset| stored(*queue, offset)).collect(),
        ));
        offsets.push(all.into_iter());
    }
    let offers = lanes.iter().map(|(lane, all)| LaneOffer {
        lane: *lane,
        messages: all,
        unseen: None,
    });
    let turns = in_turn(offers, ageing_ms);
    let mut chosen = Vec::new();
    for (at, _) in turns.into_iter().take(max) {
        chosen.push((selected[at].0, offsets[at].next().unwrap()));
    }
    let mut above = Vec::new();
    for (queue, it) in &selected {
        let mine: Vec<u64> = chosen
            .iter()
            .filter(|(of, _)| of == queue)
            .map(|it| it.1)
            .collect();
        let due = mine.iter().filter(|offset| **offset < it.first_new);
        let deliver = Deliver {
            group: G,
            queue: queue.0,
            redeliver: due.clone().copied().collect(),
            first_new: it.first_new,
            new: taken((mine.len() - due.count()) as u32),
            deadline_ms: shard.now_ms + LEASE_MS,
            nonce,
            above: above.clone(),
            ..Deliver::default()
        };
        above.push(Cursor {
            queue: queue.0,
            cursor: it.first_new + deliver.new.iter().map(|run| u64::from(run.count)).sum::<u64>(),
        });
        let leased: Vec<u64> = shard
            .delivered(deliver)
            .iter()
            .map(|lease| lease.offset)
            .collect();
        assert_eq!(leased, mine);
    }
    chosen
        .into_iter()
        .map(|(queue, offset)| (queue.number(), offset))
        .collect()
}

#[test]
fn the_highest_lane_comes_first_and_one_delivery_takes_from_several() {
    let mut shard = prepared();
    for (at, priority) in [3, -7, 9, 3, 2_000_000].into_iter().enumerate() {
        shard.append(lane(lane_of(priority)), &at.to_string());
    }
    assert_eq!(take(&mut shard, 4, 0, 5), [(15, 0), (10, 0), (4, 0), (4, 1)]);
    assert_eq!(take(&mut shard, 4, 0, 6), [(0, 0)]);
}

#[test]
fn a_retried_message_keeps_its_level() {
    let mut shard = prepared();
    shard.append(lane(5), "urgent");
    shard.append(lane(4), "less");
    shard.append(lane(4), "less too");
    assert_eq!(take(&mut shard, 1, 0, 5), [(5, 0)]);
    let retry = release(
        G,
        lane(5),
        (0, 5),
        Action::Retry as i32,
        Some(shard.now_ms + 10),
        6,
    );
    shard.apply(retry);
    assert_eq!(take(&mut shard, 1, 0, 7), [(4, 0)], "it waits");
    shard.pass(10);
    assert_eq!(take(&mut shard, 2, 0, 8), [(5, 0), (4, 1)]);
}

#[test]
fn a_lane_on_which_the_group_has_not_begun_does_not_count_as_empty() {
    let mut shard = Shard::new();
    begin(&mut shard, 4);
    shard.append(lane(4), "less");
    let select = |shard: &Shard| {
        shard
            .core
            .selectable_lanes(GroupId(G), TOPIC, shard.now_ms, 0, 9, 9)
    };
    assert_eq!(select(&shard).unwrap().len(), 1);
    shard.append(lane(5), "urgent");
    assert_eq!(select(&shard), None);
    begin(&mut shard, 5);
    assert_eq!(select(&shard).unwrap()[0].0, QueueId(lane(5)));
}

/// What one entry leases of two lanes, both of which have been decided at one moment.
fn unit(upper: u32, lower: u32) -> [Deliver; 2] {
    let deliver = |number, count| Deliver {
        group: G,
        queue: lane(number),
        new: taken(count),
        deadline_ms: 1_000_000,
        nonce: 9,
        ..Deliver::default()
    };
    let above = vec![Cursor {
        queue: lane(5),
        cursor: u64::from(upper),
    }];
    let lower = Deliver {
        above,
        ..deliver(4, lower)
    };
    [deliver(5, upper), lower]
}

#[test]
fn a_lower_lane_gives_nothing_when_the_one_above_is_not_where_it_was_decided_to_be() {
    let prepared = || {
        let mut shard = prepared();
        for (number, id) in [(5, "a"), (5, "b"), (4, "c")] {
            shard.append(lane(number), id);
        }
        shard
    };
    let leased = |shard: &mut Shard| unit(2, 1).map(|deliver| shard.delivered(deliver).len());
    assert_eq!(leased(&mut prepared()), [2, 1]);
    let mut moved = prepared();
    assert_eq!(take(&mut moved, 1, 0, 7), [(5, 0)]);
    assert_eq!(leased(&mut moved), [0, 0], "another delivery took one meanwhile");
    assert_eq!(take(&mut moved, 2, 0, 8), [(5, 1), (4, 0)]);
    let mut trimmed = prepared();
    trimmed.trim(lane(5), 1, 10);
    assert_eq!(leased(&mut trimmed), [0, 0], "its first was forgotten meanwhile");
    let mut all = prepared();
    assert_eq!(take(&mut all, 2, 0, 7), [(5, 0), (5, 1)]);
    assert_eq!(leased(&mut all), [0, 1], "nothing is left above it");
}

#[test]
fn with_ageing_what_waits_is_overtaken_only_for_so_long() {
    let mut shard = prepared();
    shard.append(lane(1), "old");
    for at in 0..30 {
        shard.pass(10);
        shard.append(lane(3), &format!("urgent {at}"));
    }
    // Two lanes weigh 200 ms: 20 of them were stored by then, the last at the very end of it.
    let came = take(&mut shard, 30, 100, 5);
    assert_eq!(came.iter().position(|&it| it == (1, 0)), Some(20));
}

#[test]
fn with_ageing_retries_come_by_when_they_were_stored_not_by_when_they_are_due() {
    let mut shard = prepared();
    for id in ["old", "young"] {
        shard.append(lane(5), id);
        shard.pass(20);
    }
    shard.append(lane(4), "younger");
    assert_eq!(take(&mut shard, 2, 5, 5), [(5, 0), (5, 1)]);
    // The older one is due last.
    for (offset, after_ms) in [(0, 10), (1, 5)] {
        let at_ms = Some(shard.now_ms + after_ms);
        shard.apply(release(G, lane(5), (offset, 5), Action::Retry as i32, at_ms, 0));
    }
    shard.pass(10);
    assert_eq!(take(&mut shard, 1, 5, 7), [(5, 0)]);
    assert_eq!(take(&mut shard, 2, 5, 8), [(5, 1), (4, 0)]);
}

#[test]
fn nothing_comes_before_what_was_not_looked_at() {
    let mut shard = prepared();
    for (number, id) in [(9, "a"), (5, "b"), (5, "c"), (2, "d")] {
        shard.pass(10);
        shard.append(lane(number), id);
    }
    let stored = |number, offset| {
        let found = shard.core.locate(&shard.kv, QueueId(lane(number)), offset);
        found.unwrap().unwrap()
    };
    let (high, middle, low) = ([stored(9, 0)], [stored(5, 0)], [stored(2, 0)]);
    let offer = |lane, messages, unseen| LaneOffer {
        lane,
        messages,
        unseen,
    };
    let lanes = [
        offer(9, &high[..], None),
        offer(5, &middle[..], Some(stored(5, 1))),
        offer(2, &low[..], None),
    ];
    let came = |ageing_ms| {
        let turns = in_turn(lanes.into_iter(), ageing_ms);
        turns.into_iter().map(|(at, _)| at).collect::<Vec<_>>()
    };
    assert_eq!(came(0), [0, 1]);
    // By age: the one of lane 2 was stored last of all.
    assert_eq!(came(1), [0, 1]);
    let old = [Stored { time_ms: 0, ..low[0] }];
    let lanes = [
        offer(5, &middle[..], Some(stored(5, 1))),
        offer(2, &old[..], None),
    ];
    assert_eq!(
        in_turn(lanes.into_iter(), 1)[0].0,
        1,
        "it is older than anything unseen"
    );
}

/// A message as the model sees it: when it was stored, and what it waits for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    New,
    Leased,
    DueAt(u64),
    Over,
}

#[derive(Debug, Clone)]
enum Step {
    Send(i32),
    Pass(u64),
    Take(usize),
    Ack(usize),
    Retry(usize, u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop_oneof![-1_i32..12, any::<i32>()].prop_map(Step::Send),
        2 => (1_u64..400).prop_map(Step::Pass),
        4 => (1_usize..6).prop_map(Step::Take),
        3 => any::<usize>().prop_map(Step::Ack),
        3 => (any::<usize>(), 0_u64..500).prop_map(|(which, ms)| Step::Retry(which, ms)),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..80)
}

/// What must come, of everything that could be delivered now.
fn expected(
    all: &BTreeMap<(u32, u64), (u64, Fate)>,
    now_ms: u64,
    max: usize,
    ageing_ms: u64,
) -> Vec<(u32, u64)> {
    let mut chosen = Vec::new();
    for number in (0..LANES).rev() {
        let of_lane = || all.range((number, 0)..=(number, u64::MAX));
        let mut due: Vec<(u64, u64)> = of_lane()
            .filter_map(|(&(_, offset), &(_, fate))| match fate {
                Fate::DueAt(at_ms) if at_ms <= now_ms => Some((at_ms, offset)),
                _ => None,
            })
            .collect();
        due.sort_unstable();
        // What stands first where age counts, else what is due longest.
        let wanted = if ageing_ms > 0 { usize::MAX } else { max };
        let mut due: Vec<u64> = due.into_iter().take(wanted).map(|(_, offset)| offset).collect();
        due.sort_unstable();
        let new = of_lane()
            .filter(|(_, it)| it.1 == Fate::New)
            .map(|(&(_, offset), _)| offset);
        chosen.extend(due.into_iter().chain(new).map(|offset| (number, offset)));
    }
    if ageing_ms > 0 {
        chosen.sort_by_key(|&(number, offset)| {
            let stored = all[&(number, offset)].0 as i64;
            (stored - i64::from(number) * ageing_ms as i64, LANES - number)
        });
    }
    chosen.truncate(max);
    chosen
}

proptest! {
    #[test]
    fn what_comes_is_what_the_model_says(steps in steps(), ageing_ms in prop_oneof![Just(0), 1_u64..300]) {
        let mut shard = prepared();
        shard.careful = false;
        let mut all: BTreeMap<(u32, u64), (u64, Fate)> = BTreeMap::new();
        let mut leased: Vec<((u32, u64), u64)> = Vec::new();
        for (at, step) in steps.into_iter().enumerate() {
            let nonce = 1 + at as u64;
            match step {
                Step::Send(priority) => {
                    let number = lane_of(priority);
                    let (_, offset, _) = shard.append(lane(number), &format!("m{at}"));
                    all.insert((number, offset), (shard.now_ms, Fate::New));
                }
                // Leases last longer than this test.
                Step::Pass(ms) => shard.pass(ms),
                Step::Take(max) => {
                    let must = expected(&all, shard.now_ms, max, ageing_ms);
                    let came = take(&mut shard, max, ageing_ms, nonce);
                    prop_assert_eq!(&came, &must);
                    for key in came {
                        all.get_mut(&key).unwrap().1 = Fate::Leased;
                        leased.push((key, nonce));
                    }
                }
                Step::Ack(_) | Step::Retry(..) if leased.is_empty() => {}
                Step::Ack(which) => {
                    let ((number, offset), nonce) = leased.swap_remove(which % leased.len());
                    shard.ack(G, lane(number), &[(offset, nonce)]);
                    all.get_mut(&(number, offset)).unwrap().1 = Fate::Over;
                }
                Step::Retry(which, ms) => {
                    let ((number, offset), nonce) = leased.swap_remove(which % leased.len());
                    let at_ms = shard.now_ms + ms;
                    shard.apply(release(G, lane(number), (offset, nonce), Action::Retry as i32, Some(at_ms), 0));
                    all.get_mut(&(number, offset)).unwrap().1 = Fate::DueAt(at_ms);
                }
                Step::Restart => shard.core = queue_core::Core::load(&shard.kv).unwrap(),
            }
        }
        shard.core.check(&shard.kv).map_err(TestCaseError::fail)?;
    }
}

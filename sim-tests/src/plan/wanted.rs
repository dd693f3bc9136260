//! Worlds in which one consumer group does not want every message, or another is put elsewhere. Which they are follows from the number of the seed, and
//! nothing is drawn for them: all other worlds stay what they are.

use std::time::Duration;

use flotilla_proto::rocketmq::FilterType;
use queue_core::tag_hash;

use super::{Fault, Plan, leaning::OFTEN};

/// Seeds modulo 100. (Of the seeds that were kept before there were such worlds none is one.)
const FILTER: [u64; 16] = [2, 9, 13, 17, 19, 28, 31, 33, 35, 38, 41, 43, 46, 48, 50, 53];
/// The same of worlds with replay.
const REPLAY: [u64; 10] = [56, 58, 59, 65, 66, 71, 72, 75, 77, 78];
/// The same of worlds whose producers leave it at one try.
const QUITS: [u64; 10] = [20, 30, 45, 49, 51, 80, 88, 89, 93, 95];
/// The same of worlds in which somebody reads by offset.
const PULLS: [u64; 10] = [6, 12, 22, 36, 42, 82, 92, 97, 98, 99];
/// The same of worlds in which a consumer group is paused.
const PAUSES: [u64; 10] = QUITS;
/// Tags of letters are `tag-0` to `tag-255`, and every second letter has none (`letter.rs`).
const TAGS: u32 = 256;

/// What such a consumer group wants, by the tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Some tags, by name.
    Some,
    /// Whatever has no tag, or one that begins in a certain way, by a condition.
    Begins,
    /// What has a tag that does not begin so, by a condition: few.
    Others,
}

impl Wanted {
    /// Lets a seed's world have replay, or one of its consumer groups be choosy, if it is such a world: the last one, or that which may have push
    /// consumers. Another one gets all messages, so that everybody knows what there is.
    pub(super) fn choose(seed: u64, plan: &mut Plan) {
        // What is read again must not be forgotten meanwhile.
        plan.replays = REPLAY.contains(&(seed % 100)) && !plan.limits.forget();
        if plan.replays {
            // So that there are seeks in several steps, which leaders die between.
            plan.limits.bounds.seek = 1 + (seed / 100 % 3) as u32;
            // Requests that come late are what makes it hard.
            if seed / 100 % 2 == 0 && plan.nodes > 1 {
                plan.faults.insert(Fault::Disorder, OFTEN);
            }
        }
        // As with replay.
        plan.pulls = PULLS.contains(&(seed % 100)) && !plan.limits.forget();
        // Who asks a leader that is none any more must not be told what was.
        if plan.pulls && seed / 100 % 2 == 1 && plan.nodes >= 3 {
            plan.faults.clear();
            plan.faults.insert(Fault::Split, OFTEN);
            (plan.shards, plan.at_once, plan.fault_every_ms) = (1, 1, 300);
            plan.faults_for = plan.faults_for.max(Duration::from_secs(40));
        }
        plan.pauses = PAUSES.contains(&(seed % 100)) && !plan.limits.forget();
        plan.quits = QUITS.contains(&(seed % 100));
        plan.batches |= plan.quits;
        if let Some(wanted) = Wanted::of(seed) {
            plan.groups = plan.groups.max(2);
            let number = if seed / 300 % 2 == 0 { plan.groups - 1 } else { 0 };
            plan.wanted = Some((number, wanted));
            // Small, so that each matters.
            let bounds = &mut plan.limits.bounds;
            (bounds.filter_page, bounds.pass_over_at, bounds.pass_over_most) = match seed / 600 % 3 {
                0 => (2, 3, 5),
                1 => (3, 1_000, 4),
                _ => return,
            };
        }
    }

    /// What is wanted in a seed's world, if not everything.
    fn of(seed: u64) -> Option<Wanted> {
        let which = [Wanted::Some, Wanted::Begins, Wanted::Others][(seed / 100 % 3) as usize];
        FILTER.contains(&(seed % 100)).then_some(which)
    }

    /// As a consumer asks for it.
    #[must_use]
    pub fn expression(self) -> (FilterType, String) {
        match self {
            Wanted::Some => {
                let tags: Vec<String> = (0..TAGS / 2).map(|tag| format!("tag-{tag}")).collect();
                (FilterType::Tag, tags.join(" || "))
            }
            Wanted::Begins => (
                FilterType::Sql,
                "TAGS IS NULL OR TAGS STARTSWITH 'tag-1'".to_owned(),
            ),
            Wanted::Others => (
                FilterType::Sql,
                "TAGS IS NOT NULL AND TAGS NOT STARTSWITH 'tag-1'".to_owned(),
            ),
        }
    }

    /// Whether a message is wanted whose tag has this hash, as the state has it; 0 is none.
    #[must_use]
    pub fn takes_hash(self, hash: u64) -> bool {
        let tags = (0..TAGS).map(|tag| format!("tag-{tag}"));
        match hash {
            0 => self.takes(None),
            _ => tags
                .into_iter()
                .any(|tag| self.takes(Some(&tag)) && tag_hash(&tag) == hash),
        }
    }

    /// Whether a message with this tag is wanted.
    #[must_use]
    pub fn takes(self, tag: Option<&str>) -> bool {
        let begins = |tag: &str| tag.starts_with("tag-1");
        match (self, tag) {
            (Wanted::Some, Some(tag)) => {
                let number = tag.strip_prefix("tag-").and_then(|number| number.parse().ok());
                number.is_some_and(|number: u32| number < TAGS / 2)
            }
            (Wanted::Some, None) | (Wanted::Others, None) => false,
            (Wanted::Begins, tag) => tag.is_none_or(begins),
            (Wanted::Others, Some(tag)) => !begins(tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sixth_of_the_seeds_filters_a_tenth_replays_and_none_of_those_that_were_kept_before() {
        assert_eq!((0..3_000).filter_map(Wanted::of).count(), 480);
        let kept = include_str!("../../seeds.txt").lines();
        let kept = kept.filter_map(|line| line.split_whitespace().next()?.parse().ok());
        let filter: Vec<u64> = kept
            .filter(|&seed| {
                Wanted::of(seed).is_some()
                    || [REPLAY, QUITS, PULLS].iter().any(|of| of.contains(&(seed % 100)))
            })
            .collect();
        assert_eq!(filter, [] as [u64; 0]);
    }

    #[test]
    fn what_is_wanted_is_neither_everything_nor_nothing() {
        for wanted in [Wanted::Some, Wanted::Begins, Wanted::Others] {
            let tags = (0..TAGS).map(|tag| Some(format!("tag-{tag}"))).chain([None]);
            let taken = tags.filter(|tag| wanted.takes(tag.as_deref())).count();
            assert!((50..200).contains(&taken), "{wanted:?}: {taken}");
        }
    }
}

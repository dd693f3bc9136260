//! Which worlds have message groups: topics of ordered messages, consumer groups that want order, and clients that name their attempts.
//! By the number of the seed, and nothing is drawn for them: all other worlds stay what they are.

use super::Plan;

/// Of a hundred worlds, by the last digits of their seeds. (Of the seeds that were kept before there were such worlds none is one.)
const ORDERED: [u64; 9] = [12, 20, 22, 30, 36, 42, 45, 49, 51];

/// Makes a seed's world such a one, if it is.
pub(super) fn choose(seed: u64, plan: &mut Plan) {
    plan.ordered = ORDERED.contains(&(seed % 100));
    if plan.ordered {
        // What is passed over must not be forgotten meanwhile: the oracle of retention does not know of it.
        plan.limits.keep();
        // Whoever rests with a message for minutes keeps all others of its message group waiting, one after the other: longer than a run lasts.
        plan.habits.rest = false;
        // Small, so that something is passed over before anything comes.
        let bounds = &mut plan.limits.bounds;
        (bounds.filter_page, bounds.pass_over_at) = match seed / 100 % 3 {
            0 => (2, 3),
            1 => (5, 1_000),
            _ => return,
        };
    }
}

impl Plan {
    /// Whether a consumer group gets the messages of each message group in order. The last one does not, unless it is the only one: it
    /// takes ordered messages as others.
    #[must_use]
    pub fn is_fifo(&self, group: &str) -> bool {
        let last = self.group(self.groups - 1);
        self.ordered
            && (0..self.groups).any(|number| self.group(number) == group)
            && (self.groups == 1 || group != last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_of_the_seeds_that_were_kept_before_has_message_groups() {
        let kept = include_str!("../../seeds.txt").lines();
        let mut kept = kept.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        assert!(kept.all(|seed| !ORDERED.contains(&(seed % 100))));
    }
}

//! Write gaps: the longest time without an acknowledged send around a fault.

use std::{collections::BTreeMap, time::Duration};

/// After the end of a fault its window lasts so long.
const AFTER: Duration = Duration::from_secs(3);

/// A fault that happened.
#[derive(Debug, Clone)]
pub(super) struct Happened {
    pub(super) name: String,
    pub(super) from: Duration,
    pub(super) until: Duration,
}

/// The gaps of one kind of fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gaps {
    pub(super) count: usize,
    pub(super) median: Duration,
    pub(super) p99: Duration,
    pub(super) most: Duration,
}

/// By kind of fault. Both lists are in order of time.
pub(super) fn by_fault(faults: &[Happened], acknowledged: &[Duration]) -> BTreeMap<String, Gaps> {
    let mut gaps: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for (number, fault) in faults.iter().enumerate() {
        // What the next fault does is not this one's.
        let next = faults.get(number + 1).map_or(Duration::MAX, |next| next.from);
        let gap = longest(acknowledged, fault.from, fault.until + AFTER, next);
        gaps.entry(fault.name.clone()).or_default().push(gap);
    }
    let sum = |mut all: Vec<Duration>| {
        all.sort_unstable();
        Gaps {
            count: all.len(),
            median: all[(all.len() - 1) / 2],
            p99: all[(all.len() * 99).div_ceil(100) - 1],
            most: all[all.len() - 1],
        }
    };
    gaps.into_iter().map(|(name, all)| (name, sum(all))).collect()
}

/// The longest time without an acknowledgement that begins in the window. What of it lies after the window counts as well,
/// but not what lies before, or after the beginning of the next fault.
fn longest(acknowledged: &[Duration], from: Duration, until: Duration, next: Duration) -> Duration {
    let until = until.min(next);
    let first = acknowledged.partition_point(|at| *at < from);
    let after = acknowledged.partition_point(|at| *at <= until);
    let end = acknowledged.get(after).copied().unwrap_or(until).min(next);
    let mut last = from;
    let mut most = Duration::ZERO;
    for at in acknowledged[first..after].iter().copied().chain([end]) {
        most = most.max(at.saturating_sub(last));
        last = at;
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn fault(name: &str, from: u64, until: u64) -> Happened {
        Happened {
            name: name.into(),
            from: MS(from),
            until: MS(until),
        }
    }

    #[test]
    fn a_gap_counts_from_the_beginning_of_the_fault_to_the_next_acknowledgement() {
        let acks: Vec<Duration> = [0, 10, 20, 900, 910, 5_000].map(MS).to_vec();
        let longest = |from, until, next| longest(&acks, MS(from), MS(until), MS(next));
        assert_eq!(longest(500, 600, 90_000), MS(400));
        assert_eq!(longest(15, 905, 90_000), MS(880));
        assert_eq!(longest(905, 920, 90_000), MS(4_090));
        assert_eq!(longest(905, 920, 1_000), MS(90), "the rest is the next fault's");
        assert_eq!(longest(5_000, 8_000, 90_000), MS(3_000), "nothing came any more");
    }

    #[test]
    fn a_window_ends_where_the_next_fault_begins() {
        let acks: Vec<Duration> = (0..=1_000).chain(3_000..=9_000).map(MS).collect();
        let gaps = by_fault(&[fault("a", 500, 600), fault("b", 900, 1_500)], &acks);
        assert_eq!((gaps["a"].most, gaps["b"].most), (MS(1), MS(2_000)));
        let gaps = by_fault(&[fault("a", 500, 600), fault("b", 1_100, 1_500)], &acks);
        assert_eq!((gaps["a"].most, gaps["b"].most), (MS(100), MS(1_900)));
    }

    #[test]
    fn percentiles_are_of_one_kind_of_fault() {
        let acks: Vec<Duration> = [0, 1_000, 10_000, 13_000, 20_000, 22_000, 60_000]
            .map(MS)
            .to_vec();
        let faults = [
            fault("a", 100, 200),
            fault("a", 12_000, 12_100),
            fault("a", 21_500, 21_600),
        ];
        let gaps = &by_fault(&faults, &acks)["a"];
        assert_eq!(gaps.count, 3);
        assert_eq!(
            (gaps.median, gaps.p99, gaps.most),
            (MS(9_000), MS(38_000), MS(38_000))
        );
    }
}

//! What a run found, for people, and the verdict.

use std::{collections::BTreeMap, time::Duration};

use super::{
    book::Book,
    gaps::{self, Happened},
};

/// What is promised, by the word that a violation begins with.
const PROMISES: [(&str, &str); 9] = [
    ("P1", "an acknowledged send is delivered, and nothing else is"),
    ("P3", "nobody gets what somebody else has leased"),
    ("P4", "attempts go up, and what is done with does not come again"),
    ("P7", "a send that is repeated is stored once"),
    ("P8", "offsets are dense, and what stands at one never changes"),
    ("P9", "dead letters come after the last attempt, exactly once"),
    (
        "P11",
        "after the last fault the cluster is whole, serves and drains",
    ),
    (
        "nodes",
        "no node ends by itself, hangs, logs an ERROR, or keeps too much",
    ),
    ("run", "there were faults, and clients got something done"),
];
/// Of each promise's violations so many are printed; the rest is in the history's file.
const SHOWN: usize = 10;

/// How many promises were kept, and how many not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) passed: usize,
    pub(super) failed: usize,
}

/// Prints everything but the last line.
pub(super) fn print(book: &Book, faults: &[Happened], violations: &[String]) -> Verdict {
    print_counts(book);
    print_gaps(faults, &book.acknowledged());
    let tally = book.history.tally();
    println!(
        "sends acknowledged {}, deliveries {}, acknowledgements {}",
        tally.stored, tally.delivered, tally.acked
    );
    judge(violations)
}

fn print_counts(book: &Book) {
    println!("what happened how often:");
    for (what, count) in book.counts() {
        println!("  {count:>8}  {what}");
    }
}

fn print_gaps(faults: &[Happened], acknowledged: &[Duration]) {
    println!("longest time without an acknowledged send, by fault, milliseconds:");
    println!(
        "  {:<16} {:>5} {:>8} {:>8} {:>8}",
        "fault", "count", "median", "p99", "max"
    );
    for (name, gaps) in gaps::by_fault(faults, acknowledged) {
        let [median, p99, most] = [gaps.median, gaps.p99, gaps.most].map(|gap| gap.as_millis());
        println!("  {name:<16} {:>5} {median:>8} {p99:>8} {most:>8}", gaps.count);
    }
}

fn judge(violations: &[String]) -> Verdict {
    let mut broken: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for violation in violations {
        broken.entry(promise_of(violation)).or_default().push(violation);
    }
    println!("promises:");
    for (name, what) in PROMISES {
        let wrong = broken.get(name).map_or(&[][..], Vec::as_slice);
        println!(
            "  {} {name:<6} {what}",
            if wrong.is_empty() { "ok     " } else { "BROKEN " }
        );
        for violation in wrong.iter().take(SHOWN) {
            println!("          {violation}");
        }
        if wrong.len() > SHOWN {
            println!("          and {} more", wrong.len() - SHOWN);
        }
    }
    Verdict {
        passed: PROMISES.len() - broken.len(),
        failed: broken.len(),
    }
}

/// The promise that a violation is of.
fn promise_of(violation: &str) -> &'static str {
    let word = violation.split([' ', ':']).next().unwrap_or_default();
    let known = PROMISES.iter().find(|(name, _)| *name == word);
    known.map_or("run", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_counted_once_however_often_they_are_broken() {
        let violations = [
            "P1 lost: x",
            "P1 corrupt: y",
            "P11: not drained",
            "something else",
        ]
        .map(String::from);
        assert_eq!(judge(&violations), Verdict { passed: 6, failed: 3 });
        assert_eq!(judge(&[]), Verdict { passed: 9, failed: 0 });
    }
}

//! What the account of transactions takes for good, and what it finds.

use super::*;

const S: fn(u64) -> Duration = Duration::from_secs;

/// With a half message that is asked about from 3 s on, every 4 s, twice at most.
fn ledger() -> Ledger {
    let rules = node::Transactions {
        first_check: S(2),
        check_every: S(4),
        max_checks: 2,
    };
    let mut ledger = Ledger::new(rules, false);
    ledger.sending("a", S(1), None, Answer::Commit);
    ledger.stored("a", S(2), "t");
    ledger
}

fn says(ledger: &Ledger, what: &str) -> bool {
    let says = matches!(&ledger.wrong[..], [wrong] if wrong.starts_with(&format!("transaction {what}")));
    assert!(says, "{:?}", ledger.wrong);
    says
}

fn listed(given_up: bool) -> BTreeSet<(String, String, bool)> {
    [("a".to_owned(), "t".to_owned(), given_up)].into()
}

#[test]
fn what_is_committed_and_comes_once_is_good() {
    let mut ledger = ledger();
    ledger.ending("a", true);
    ledger.came("a", (S(3), S(4)), (0, 3), true);
    ledger.ended("a", S(5), true);
    ledger.acked("a", S(5));
    ledger.stored_again("a", "t");
    ledger.late(S(1_000), Some(S(1)));
    assert!(ledger.listed(S(9), Some(S(1)), &BTreeSet::new()) && ledger.rests());
    assert_eq!(ledger.wrong.len(), 0);
}

#[test]
fn what_comes_before_anybody_commits_it_is_half_seen() {
    let mut ledger = ledger();
    ledger.came("a", (S(3), S(4)), (0, 3), true);
    assert!(says(&ledger, "half seen"));
}

#[test]
fn what_was_rolled_back_never_comes_before_or_after() {
    let mut after = ledger();
    after.ending("a", true);
    after.ending("a", false);
    after.ended("a", S(5), false);
    after.came("a", (S(3), S(6)), (0, 3), true);
    assert!(says(&after, "rolled back"));
    let mut before = ledger();
    before.ending("a", true);
    before.came("a", (S(3), S(4)), (0, 3), true);
    before.ending("a", false);
    before.ended("a", S(5), false);
    assert!(says(&before, "rolled back"));
}

#[test]
fn two_ends_are_found_and_a_refusal_for_nothing() {
    let mut both = ledger();
    both.ending("a", true);
    both.ending("a", false);
    both.ended("a", S(5), true);
    both.ended("a", S(6), false);
    assert!(says(&both, "two ends"));
    let mut nothing = ledger();
    nothing.ending("a", true);
    nothing.refused("a", S(5), true, "it was rolled back before");
    assert!(says(&nothing, "refused"));
    let mut unknown = ledger();
    unknown.ending("a", true);
    unknown.refused("a", S(5), true, "there is no such transaction");
    assert!(says(&unknown, "lost"));
}

#[test]
fn a_refused_end_means_that_the_other_one_counts() {
    let mut ledger = ledger();
    ledger.ending("a", true);
    ledger.ending("a", false);
    ledger.refused("a", S(5), false, "it was committed before");
    assert!(!ledger.rests(), "it is owed");
    ledger.late(S(300), Some(S(1)));
    assert!(says(&ledger, "lost"));
}

#[test]
fn questions_are_neither_early_nor_too_many() {
    let mut early = ledger();
    assert_eq!(
        early.asked("a", Duration::from_millis(2_990), "t", true),
        Some(Answer::Commit)
    );
    assert!(says(&early, "early"));
    let mut again = ledger();
    again.asked("a", S(3), "t", true);
    assert_eq!(again.wrong.len(), 0);
    again.asked("a", Duration::from_millis(6_900), "t", true);
    assert!(says(&again, "early"));
    let mut often = ledger();
    for at in [3, 7, 11] {
        often.asked("a", S(at), "t", true);
    }
    assert!(says(&often, "too often"));
}

#[test]
fn what_nobody_ends_is_listed_and_given_up_in_time() {
    let mut good = ledger();
    assert!(!good.listed(S(9), Some(S(0)), &listed(false)));
    good.asked("a", S(12), "t", true);
    assert!(good.listed(S(20), Some(S(0)), &listed(true)));
    assert_eq!(good.wrong.len(), 0);
    let mut missing = ledger();
    missing.listed(S(9), Some(S(0)), &BTreeSet::new());
    assert!(says(&missing, "does not list"));
    let mut late = ledger();
    late.listed(S(60), Some(S(0)), &listed(false));
    assert!(says(&late, "has not given up"));
    let mut unasked = ledger();
    unasked.listed(S(60), Some(S(0)), &listed(true));
    assert!(says(&unasked, "has given up a and asked nobody"));
    let mut ended = ledger();
    ended.ending("a", false);
    ended.ended("a", S(5), false);
    ended.listed(S(60), Some(S(0)), &listed(true));
    assert!(says(&ended, "lists"));
}

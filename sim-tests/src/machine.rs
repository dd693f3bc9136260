//! How long what blocks on a disk takes on a simulated machine, and power that fails in the middle of it.
//!
//! Most of it takes no time. Some takes a little before it is done, and a little until its caller hears of it; in some
//! worlds some of it takes long. Meanwhile the process goes on, and may be killed: that is counted. And in some worlds the
//! power fails between two of the writes that one piece of work consists of, or right after the last.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use madsim::{
    rand::{Rng, seq::SliceRandom, thread_rng},
    time::TimeHandle,
};
use raft_store::blocking::{
    Work,
    sim::{Machine, Times},
};

/// Of a hundred pieces of work that take time, so many take a long time in a slow world; and of those that come often.
const LONG_PERCENT: u32 = 30;
const OFTEN_LONG_PERCENT: u32 = 3;
/// A world's longest piece of work comes once in so many that take time.
const LONGEST_ONE_IN: u32 = 400;
/// Batches are written all the time, and wait for their sync anyway: of so many that would take time one does.
const BATCHES: u32 = 16;

/// A machine that begins more pieces of work within a second goes round in circles.
const MOST_IN_A_SECOND: u64 = 10_000;

/// As few changes of the disk has work that the power is to fail in, so that it hardly ever is over before.
const DOOMED_CHANGES: u64 = 2;

/// How slow the machines of a world are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slowness {
    /// Of a hundred pieces of work so many take time.
    pub percent: u32,
    /// Usually so long at most, microseconds.
    pub usual_us: u64,
    /// What takes long takes so long at most, milliseconds; 0 for worlds where nothing does.
    pub long_ms: u64,
    /// What takes longest takes so long, milliseconds; 0 for worlds where nothing does.
    pub longest_ms: u64,
    /// How often the power fails in the middle of work, relative to a world where it does so now and then.
    pub outages: u32,
}

impl Slowness {
    /// Nothing takes time.
    pub const NONE: Slowness = Slowness {
        percent: 0,
        usual_us: 0,
        long_ms: 0,
        longest_ms: 0,
        outages: 0,
    };

    /// Draws how slow a world is, with power that may fail or not.
    #[must_use]
    pub fn draw(power_fails: bool) -> Slowness {
        let mut rng = thread_rng();
        let mut one_of = |choices: &[u64]| *choices.choose(&mut rng).expect("there are some");
        Slowness {
            percent: one_of(&[5, 20, 50, 90]) as u32,
            usual_us: one_of(&[50, 300, 1_000, 5_000]),
            long_ms: one_of(&[0, 0, 50, 200, 600]),
            longest_ms: one_of(&[0, 0, 2_000, 6_000]),
            outages: if power_fails { one_of(&[0, 1, 4]) as u32 } else { 0 },
        }
    }

    /// How long a piece of work takes; most take none. What takes longest comes while there are faults: after that nobody's answer
    /// gets lost, and a message that was given to nobody would be leased to nobody for a minute.
    fn time(self, work: Work, faults: bool) -> Option<Duration> {
        let mut rng = thread_rng();
        if self.percent == 0 || rng.gen_range(0..100) >= self.percent {
            return None;
        }
        if work == Work::Batch && !rng.gen_ratio(1, BATCHES) {
            return None;
        }
        if self.longest_ms > 0 && rng.gen_ratio(1, LONGEST_ONE_IN) && faults {
            return Some(Duration::from_millis(self.longest_ms));
        }
        let often = matches!(work, Work::Batch | Work::Read | Work::Prepare);
        let long_percent = if often { OFTEN_LONG_PERCENT } else { LONG_PERCENT };
        if self.long_ms > 0 && rng.gen_ratio(long_percent, 100) {
            return Some(Duration::from_micros(rng.gen_range(0..self.long_ms * 1_000)));
        }
        Some(Duration::from_micros(rng.gen_range(10..=self.usual_us)))
    }
}

/// The name of work in counters.
fn name(work: Work) -> &'static str {
    match work {
        Work::Open => "open",
        Work::Batch => "batch",
        Work::Roll => "roll",
        Work::Prepare => "prepare",
        Work::Index => "index",
        Work::Recycle => "recycle",
        Work::Read => "read",
        Work::Repair => "repair",
        Work::Flush => "flush",
        Work::Export => "export",
        Work::Stage => "stage",
        Work::Install => "install",
        Work::Clear => "clear",
    }
}

/// How often the power fails during work, once in, and how many changes of the disk it consists of, more or less.
fn tearing(work: Work) -> (u32, u64) {
    match work {
        Work::Open => (25, 8),
        Work::Install => (4, 4),
        Work::Stage | Work::Repair | Work::Clear => (20, 2),
        Work::Roll | Work::Recycle | Work::Index => (30, 5),
        Work::Flush => (40, 1),
        Work::Prepare => (400, 3),
        Work::Export => (40, 0),
        Work::Read => (1_000, 0),
        Work::Batch => (40_000, 2),
    }
}

/// The power of a machine: on, off, or about to fail.
#[derive(Default)]
pub struct Power {
    off: AtomicBool,
    /// It fails at so many changes from now; 0 when it does not.
    fails_in: AtomicU64,
}

impl Power {
    /// Whether the disk may change now.
    #[must_use]
    pub fn is_on(&self) -> bool {
        match self.fails_in.load(Ordering::Relaxed) {
            0 => {}
            1 => {
                self.fails_in.store(0, Ordering::Relaxed);
                self.off.store(true, Ordering::Relaxed);
            }
            more => self.fails_in.store(more - 1, Ordering::Relaxed),
        }
        !self.off.load(Ordering::Relaxed)
    }

    /// Somebody has repaired the mains.
    pub fn back(&self) {
        self.fails_in.store(0, Ordering::Relaxed);
        self.off.store(false, Ordering::Relaxed);
    }
}

/// What becomes of a machine whose power has failed during work of this name.
pub type Outage = Box<dyn Fn(&str) + Send + Sync>;

/// Whether the power of a machine may fail now.
pub type MayFail = Box<dyn Fn() -> bool + Send + Sync>;

/// A machine of the world, for what blocks.
pub struct SlowMachine {
    slowness: Slowness,
    power: Arc<Power>,
    may_fail: MayFail,
    outage: Outage,
    pieces: Mutex<Pieces>,
}

/// What is under way.
#[derive(Default)]
struct Pieces {
    begun: u64,
    /// And whether it is done, and only its caller has not heard of it.
    under_way: BTreeMap<u64, (Work, bool)>,
    /// How many there were of each.
    of_each: BTreeMap<Work, u64>,
    /// The present second, and how many there were in it.
    lately: (u64, u64),
    /// During which the power is to fail, and how many there are of it before.
    doomed: Option<(Work, u64)>,
}

impl SlowMachine {
    /// A machine whose power may fail while `may_fail` says so; then `outage` is called, and the process must be dead when it
    /// returns.
    #[must_use]
    pub fn new(slowness: Slowness, power: Arc<Power>, may_fail: MayFail, outage: Outage) -> Self {
        SlowMachine {
            slowness,
            power,
            may_fail,
            outage,
            pieces: Mutex::default(),
        }
    }

    /// The process has died: what it was in the middle of, as counters call it.
    pub fn interrupted(&self) -> Vec<String> {
        let under_way = std::mem::take(&mut self.pieces().under_way);
        let named = |(work, done): (Work, bool)| {
            let when = if done { "done, not told" } else { "not done" };
            format!("crash during {} ({when})", name(work))
        };
        under_way.into_values().map(named).collect()
    }

    /// How many pieces of this work there were, in all lives.
    pub fn count(&self, work: Work) -> u64 {
        self.pieces().of_each.get(&work).copied().unwrap_or_default()
    }

    /// The power is to fail during the next piece of this work but so many, before one of its changes or right after them, also in
    /// a world where it does not by itself. Nothing: during none.
    pub fn doom(&self, piece: Option<(Work, u64)>) {
        self.pieces().doomed = piece;
    }

    /// Counts a piece of work. Whether it is the one that the power is to fail in.
    ///
    /// # Panics
    /// When it has lost its way: it may do so without any time passing, and nobody else would have a turn.
    fn is_doomed(&self, work: Work) -> bool {
        let second = TimeHandle::try_current().map_or(0, |time| time.elapsed().as_secs());
        let mut pieces = self.pieces();
        let (before, count) = pieces.lately;
        pieces.lately = (second, if second == before { count + 1 } else { 1 });
        assert!(
            pieces.lately.1 <= MOST_IN_A_SECOND,
            "P11: a node does the same again and again, at second {second} this: {}",
            name(work)
        );
        *pieces.of_each.entry(work).or_default() += 1;
        match &mut pieces.doomed {
            Some((doomed, left)) if *doomed == work && *left > 0 => {
                *left -= 1;
                false
            }
            Some((doomed, _)) if *doomed == work => {
                pieces.doomed = None;
                drop(pieces);
                (self.may_fail)()
            }
            _ => false,
        }
    }

    fn pieces(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the power is to fail during this work, as chance has it.
    fn fails(&self, work: Work) -> bool {
        let outages = self.slowness.outages;
        let one_in = tearing(work).0;
        outages > 0 && (self.may_fail)() && thread_rng().gen_ratio(outages.min(one_in), one_in)
    }

    fn fail(&self, work: Work, when: &str) {
        self.power.off.store(true, Ordering::Relaxed);
        (self.outage)(&format!("{} ({when})", name(work)));
    }
}

impl Machine for SlowMachine {
    fn begin(&self, work: Work) -> Option<Times> {
        let time = self.slowness.time(work, (self.may_fail)())?;
        // Before it is done, after that, or some of both.
        let before = match thread_rng().gen_range(0..3) {
            0 => Duration::ZERO,
            1 => time,
            _ => time.mul_f64(thread_rng().gen_range(0.0..1.0)),
        };
        let mut pieces = self.pieces();
        pieces.begun += 1;
        let number = pieces.begun;
        pieces.under_way.insert(number, (work, false));
        Some(Times {
            number,
            before,
            after: time - before,
        })
    }

    fn done(&self, number: u64) {
        if let Some((_, done)) = self.pieces().under_way.get_mut(&number) {
            *done = true;
        }
    }

    fn over(&self, number: u64) {
        self.pieces().under_way.remove(&number);
    }

    fn before(&self, work: Work) {
        let is_doomed = self.is_doomed(work);
        let changes = if is_doomed {
            DOOMED_CHANGES
        } else {
            tearing(work).1
        };
        if is_doomed || changes > 0 && self.fails(work) {
            let change = thread_rng().gen_range(1..=changes + 1);
            self.power.fails_in.store(change, Ordering::Relaxed);
        }
    }

    fn after(&self, work: Work) -> bool {
        if self.power.off.load(Ordering::Relaxed) {
            self.fail(work, "torn");
            return false;
        }
        // At the next change, had there been one.
        if self.power.fails_in.swap(0, Ordering::Relaxed) == 1 {
            self.fail(work, "just done");
            return false;
        }
        true
    }

    fn end(&self, work: Work) -> bool {
        if self.fails(work) {
            self.fail(work, "done, not told");
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_fails_at_the_change_that_was_chosen_and_stays_off_until_it_is_back() {
        let power = Power::default();
        assert!(power.is_on());
        power.fails_in.store(3, Ordering::Relaxed);
        let on: Vec<bool> = (0..5).map(|_| power.is_on()).collect();
        assert_eq!(on, [true, true, false, false, false]);
        power.back();
        assert!(power.is_on());
    }

    fn machine(slowness: Slowness, outages: Arc<AtomicU64>) -> SlowMachine {
        let outage = move |_: &str| _ = outages.fetch_add(1, Ordering::Relaxed);
        SlowMachine::new(slowness, Arc::default(), Box::new(|| true), Box::new(outage))
    }

    #[madsim::test]
    async fn work_under_way_is_told_when_its_process_dies_and_what_is_over_is_not() {
        let slow = Slowness {
            percent: 100,
            usual_us: 100,
            ..Slowness::NONE
        };
        let machine = machine(slow, Arc::default());
        let begin = |work| machine.begin(work).expect("all work takes time").number;
        let (flush, install, _) = (begin(Work::Flush), begin(Work::Install), begin(Work::Read));
        machine.done(flush);
        machine.over(install);
        let expected = [
            "crash during flush (done, not told)",
            "crash during read (not done)",
        ];
        assert_eq!(machine.interrupted(), expected);
        assert!(machine.interrupted().is_empty());
    }

    #[madsim::test]
    async fn power_fails_in_the_piece_of_work_that_is_doomed_and_in_no_other() {
        let machine = machine(Slowness::NONE, Arc::default());
        machine.doom(Some((Work::Install, 1)));
        machine.before(Work::Stage);
        machine.before(Work::Install);
        assert_eq!(machine.power.fails_in.load(Ordering::Relaxed), 0);
        machine.before(Work::Install);
        assert_ne!(machine.power.fails_in.swap(0, Ordering::Relaxed), 0);
        machine.before(Work::Install);
        assert_eq!(machine.power.fails_in.load(Ordering::Relaxed), 0);
        assert_eq!(machine.count(Work::Install), 3);
        machine.doom(Some((Work::Install, 0)));
        machine.doom(None);
        machine.before(Work::Install);
        assert_eq!(machine.power.fails_in.load(Ordering::Relaxed), 0);
    }

    #[madsim::test]
    async fn power_fails_in_the_middle_of_work_that_changes_the_disk_and_right_after_it() {
        let outages = Arc::new(AtomicU64::new(0));
        let often = Slowness {
            outages: u32::MAX,
            ..Slowness::NONE
        };
        let machine = machine(often, outages.clone());
        let (mut torn, mut done) = (0, 0);
        for _ in 0..100 {
            machine.power.back();
            machine.before(Work::Flush);
            let changed = machine.power.is_on();
            let told = machine.after(Work::Flush);
            torn += u64::from(!changed);
            done += u64::from(changed && !told);
        }
        assert_eq!(torn + done, outages.load(Ordering::Relaxed));
        assert!(torn > 10 && done > 10, "{torn} {done}");
    }
}

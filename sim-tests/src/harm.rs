//! What was done to the machines of a world, and until when. It excuses what a node says of itself: lines that it logs as ERROR, and
//! answers that something in it is broken. No excuse lasts longer than its cause, and none is of use to another node.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use broker::peer::Body;
use flotilla_proto::rocketmq::{Code, Status};
use madsim::time::TimeHandle;
use prost::Message;

/// After a disk has said that it has little room, or has refused something for want of it, its node may say so for so long: it may
/// have been made to stand still in between, and it asks again sooner.
const SAID_WITHIN: Duration = Duration::from_secs(15);
/// What a node says as an ERROR when its disk is full. It is all that such a disk excuses.
const FULL: &str = "the disk is full";
/// An answer may be about what was so long ago: that of a receive is waited for as long, and may have been passed on.
const ANSWER_TAKES: Duration = Duration::from_secs(11);

/// What a machine does to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// What it has stored is not what was written, or cannot be read. Until it is whole again or taken away.
    Stored,
    /// Its disk has failed to do something. Until the process ends: the next one has no such disk.
    Disk,
    /// Its state engine has. The same.
    Engine,
    /// Its disk has little room, and said so, or had none. Until some time after.
    Room,
}

impl Harm {
    /// The name in counters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Harm::Stored => "excused ERROR: stored data",
            Harm::Disk => "excused ERROR: disk",
            Harm::Engine => "excused ERROR: state engine",
            Harm::Room => "excused ERROR: no room",
        }
    }
}

/// The harm of one world. Clones are the same.
#[derive(Clone, Default)]
pub struct Harms(Arc<Mutex<Ledger>>);

#[derive(Default)]
struct Ledger {
    spells: Vec<Spell>,
    passed_on: Vec<PassedOn>,
}

/// A time during which a node is harmed, with both its ends.
struct Spell {
    node: u32,
    harm: Harm,
    from: Duration,
    until: Option<Duration>,
}

impl Spell {
    fn meets(&self, from: Duration, until: Duration) -> bool {
        self.from <= until && self.until.is_none_or(|end| end >= from)
    }
}

/// A node that was harmed has answered another, which had asked for a client, that something in it is broken.
struct PassedOn {
    to: u32,
    at: Duration,
}

/// What happens to one machine.
#[derive(Clone)]
pub struct Chart {
    node: u32,
    harms: Harms,
}

impl Harms {
    /// Where what happens to the machine of a node is put down.
    #[must_use]
    pub fn of(&self, node: u32) -> Chart {
        Chart {
            node,
            harms: self.clone(),
        }
    }

    /// Why a node may have logged this as an ERROR, at that time; nothing if it may not. The line is about the node itself: none
    /// of the product's is about another.
    #[must_use]
    pub fn excuse_line(&self, node: u32, at: Duration, line: &str) -> Option<Harm> {
        let says_full = line.contains(FULL);
        self.met(node, at, at, |harm| harm != Harm::Room || says_full)
    }

    /// Whether a client may have had the answer of this node, at that time, that something is broken. A node that cannot write
    /// has no reason for it: it answers nothing.
    #[must_use]
    pub fn excuse_answer(&self, node: u32, at: Duration) -> bool {
        let since = at.saturating_sub(ANSWER_TAKES);
        let is_passed_on = |it: &PassedOn| it.to == node && (since..=at).contains(&it.at);
        self.met(node, since, at, breaks_answers).is_some()
            || self.ledger().passed_on.iter().any(is_passed_on)
    }

    fn met(&self, node: u32, from: Duration, until: Duration, of: impl Fn(Harm) -> bool) -> Option<Harm> {
        let ledger = self.ledger();
        let met = |spell: &&Spell| spell.node == node && of(spell.harm) && spell.meets(from, until);
        ledger.spells.iter().find(met).map(|spell| spell.harm)
    }

    fn begins(&self, node: u32, harm: Harm, at: Duration) {
        let until = (harm == Harm::Room).then_some(at + SAID_WITHIN);
        let mut ledger = self.ledger();
        let mut spells = ledger.spells.iter_mut();
        let goes_on = spells.find(|spell| spell.node == node && spell.harm == harm && spell.meets(at, at));
        match goes_on {
            Some(spell) => spell.until = until,
            None => ledger.spells.push(Spell {
                node,
                harm,
                from: at,
                until,
            }),
        }
    }

    fn ends(&self, node: u32, harm: Harm, at: Duration) {
        let mut ledger = self.ledger();
        let spells = ledger.spells.iter_mut();
        for spell in spells.filter(|spell| spell.node == node && spell.harm == harm && spell.until.is_none())
        {
            spell.until = Some(at);
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn breaks_answers(harm: Harm) -> bool {
    matches!(harm, Harm::Stored | Harm::Engine)
}

impl Chart {
    /// From now on.
    pub fn begins(&self, harm: Harm) {
        self.harms.begins(self.node, harm, now());
    }

    /// Until now.
    pub fn ends(&self, harm: Harm) {
        self.harms.ends(self.node, harm, now());
    }

    /// The process has ended; what it met is nothing to the next one.
    pub fn new_life(&self) {
        self.ends(Harm::Disk);
        self.ends(Harm::Engine);
    }

    /// The node gives another this answer to what that one had passed on.
    pub fn answers(&self, to: u32, answer: &Body) {
        let at = now();
        if says_broken(answer) && self.harms.met(self.node, at, at, breaks_answers).is_some() {
            self.harms.ledger().passed_on.push(PassedOn { to, at });
        }
    }
}

fn now() -> Duration {
    TimeHandle::current().elapsed()
}

/// What the answers to all requests of clients have in common.
#[derive(Clone, PartialEq, Message)]
struct AnyAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
}

fn says_broken(answer: &Body) -> bool {
    let Body::ForwardAnswer(answer) = answer else {
        return false;
    };
    let statuses = answer.responses.iter().filter_map(|bytes| {
        let answer = AnyAnswer::decode(bytes.clone()).ok()?;
        answer.status
    });
    statuses
        .into_iter()
        .any(|status| status.code() == Code::InternalServerError)
}

#[cfg(test)]
mod tests {
    use flotilla_proto::peer::ForwardResponse;

    use super::*;

    const SOME: &str = "raft_store::log the log stops";

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn excused(harms: &Harms, node: u32, at: Duration, line: &str) -> bool {
        harms.excuse_line(node, at, line).is_some()
    }

    #[test]
    fn a_line_is_excused_from_the_harm_on_and_until_its_end() {
        let harms = Harms::default();
        let tick = Duration::from_nanos(1);
        harms.begins(1, Harm::Stored, at(10));
        assert!(!excused(&harms, 1, at(10) - tick, SOME));
        assert!(excused(&harms, 1, at(10), SOME));
        assert!(excused(&harms, 1, at(10_000), SOME), "nobody has ended it");
        harms.ends(1, Harm::Stored, at(20));
        assert!(excused(&harms, 1, at(20), SOME));
        assert!(!excused(&harms, 1, at(20) + tick, SOME));
        harms.begins(1, Harm::Stored, at(30));
        assert!(!excused(&harms, 1, at(30) - tick, SOME));
        assert!(excused(&harms, 1, at(31), SOME));
    }

    #[test]
    fn the_harm_of_one_node_excuses_no_other() {
        let harms = Harms::default();
        harms.begins(1, Harm::Stored, at(10));
        assert!(!excused(&harms, 2, at(11), SOME));
        assert!(!harms.excuse_answer(2, at(11)));
    }

    #[test]
    fn one_harm_does_not_end_with_another() {
        let harms = Harms::default();
        harms.begins(1, Harm::Stored, at(10));
        harms.begins(1, Harm::Disk, at(11));
        harms.ends(1, Harm::Disk, at(12));
        assert!(excused(&harms, 1, at(13), SOME));
        harms.ends(1, Harm::Stored, at(14));
        assert!(!excused(&harms, 1, at(15), SOME));
    }

    #[test]
    fn a_full_disk_excuses_that_the_node_says_so_and_nothing_else() {
        let harms = Harms::default();
        harms.begins(1, Harm::Room, at(10));
        assert!(excused(
            &harms,
            1,
            at(11),
            "message=the disk is full to the last segment"
        ));
        assert!(!excused(&harms, 1, at(11), SOME));
        assert!(!harms.excuse_answer(1, at(11)));
        harms.begins(1, Harm::Room, at(15));
        assert!(
            excused(&harms, 1, at(15) + SAID_WITHIN, FULL),
            "since the last time"
        );
        assert!(!excused(&harms, 1, at(16) + SAID_WITHIN, FULL));
    }

    #[test]
    fn an_answer_may_be_late_and_no_later() {
        let harms = Harms::default();
        harms.begins(1, Harm::Engine, at(10));
        harms.ends(1, Harm::Engine, at(12));
        assert!(!harms.excuse_answer(1, at(9)));
        assert!(harms.excuse_answer(1, at(12) + ANSWER_TAKES));
        assert!(!harms.excuse_answer(1, at(13) + ANSWER_TAKES));
        harms.begins(1, Harm::Disk, at(50));
        assert!(!harms.excuse_answer(1, at(50)), "such a node answers nothing");
    }

    #[test]
    fn an_answer_may_come_from_a_harmed_node_that_was_asked_for_it() {
        let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
        runtime.block_on(async {
            let harms = Harms::default();
            let answer = |code: Code| {
                let status = Some(Status {
                    code: code.into(),
                    message: "why".into(),
                });
                Body::ForwardAnswer(ForwardResponse {
                    responses: vec![AnyAnswer { status }.encode_to_vec().into()],
                    ..ForwardResponse::default()
                })
            };
            let leader = harms.of(1);
            leader.answers(2, &answer(Code::InternalServerError));
            assert!(!harms.excuse_answer(2, now()), "the leader is not harmed");
            leader.begins(Harm::Stored);
            leader.answers(2, &answer(Code::Ok));
            assert!(!harms.excuse_answer(2, now()), "that was no such answer");
            leader.answers(2, &answer(Code::InternalServerError));
            assert!(harms.excuse_answer(2, now()));
            assert!(!harms.excuse_answer(3, now()), "it was not asked by that one");
        });
    }
}

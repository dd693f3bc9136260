//! What becomes of names: of topics and consumer groups that are deleted and made again (ADR 10).
//!
//! - What was stored in a deleted topic never comes from its successor; a deleted consumer group's position, attempts and
//!   rules are not its successor's; no number is given twice.
//! - What is stored in a topic that lasts comes to every consumer group that lasts: all of it, or all that was sent after
//!   the first receive of one that starts at the end.
//! - Dead letters outlive their consumer group, and its successor's undertakers get them.
//! - The catalogue does what it says (`register`).
//!
//! A node that has not heard of a deletion yet may store for what was deleted, and deliver from it: that is judged only once
//! the cluster is whole, and has had time to spread the news.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use register::Register;

use super::Oracle;
use crate::history::{
    DEAD_LETTERS, Event,
    names::{Answer, Arrival, GROUPS, Kind, Name, Named, Request, Rules, Spec, UNDERTAKERS},
    topic_of,
};

mod register;
#[cfg(test)]
mod tests;

/// Once the cluster is whole every node has heard of a change within this.
pub const STALE: Duration = Duration::from_secs(10);
/// A request that nobody waits for any more may be carried out so much later.
const ON_ITS_WAY: Duration = Duration::from_secs(10);
/// A send that was answered sooner was passed on once at most: a node repeats it when its shard has another leader.
const AT_ONCE: Duration = Duration::from_millis(500);
/// A lease that a consumer chooses, in these workloads: between two attempts there is one.
pub const LEASE: Duration = Duration::from_secs(10);
/// Attempts of a consumer group that nobody configured.
const DEFAULT_ATTEMPTS: u32 = 17;

/// What came where: number of the topic and of the consumer group, queue and offset.
type Came = (u32, u32, (i32, i64));

/// Watches names. Knows only what the operator and the clients of these names did and saw.
#[derive(Default)]
pub struct Names {
    calm: Option<Duration>,
    lives: BTreeMap<Name, Life>,
    /// Which name has a number, and since when that is known.
    numbers: BTreeMap<(Kind, u32), (String, Duration)>,
    /// Those that the operator made: when he asked, and how.
    made: BTreeMap<(Kind, u32), (Duration, Spec)>,
    /// Names that the operator made last, and did not get to know the number of.
    unnumbered: BTreeMap<Name, (Duration, Spec)>,
    /// The fewest attempts that were ever asked for, by consumer group.
    fewest: BTreeMap<String, u32>,
    /// Names of consumer groups of which one may start at the end.
    from_end: BTreeSet<String>,
    messages: BTreeMap<String, Message>,
    /// When a consumer group's first receive of a topic was answered, both by number.
    begun: BTreeMap<(u32, u32), Duration>,
    /// The last delivery, by consumer group, topic and place.
    last: BTreeMap<Came, (Duration, i32)>,
    /// When an acknowledgement was accepted, by the same.
    acked: BTreeMap<(u32, u32, (i32, i64)), Duration>,
    /// Consumer groups, by number, that got a message.
    came: BTreeSet<(u32, String)>,
    /// Consumer groups, by name, of which it is a dead letter that came; to which undertakers.
    dead: BTreeMap<(String, String), BTreeSet<u32>>,
    /// Dead letters by the will of a consumer: maybe, and for certain of a consumer group that was not deleted then.
    burying: BTreeSet<(String, String)>,
    buried: BTreeSet<(String, String)>,
    register: Register,
}

/// The deletions of a name.
#[derive(Default)]
struct Life {
    /// When a deletion was asked for last.
    asked: Option<Duration>,
    /// When it is over at the latest, whatever was answered.
    over: Duration,
    /// That were certainly carried out: asked and answered.
    done: Vec<(Duration, Duration)>,
    /// The number of what has the name for good.
    lasting: Option<u32>,
}

/// A message to one of the topics.
struct Message {
    topic: String,
    sent: Duration,
    stored: Option<Duration>,
    /// How often it was sent. Of several tries all but one got no answer, and may lie in a connection that is cut.
    tries: u32,
}

impl Names {
    /// What must come and has not, as far as that is known.
    #[must_use]
    pub fn owed(&self) -> Vec<String> {
        let mut owed = Vec::new();
        let lasting = |name: &str| self.lives.get(&Name::group(name))?.lasting;
        for group in GROUPS {
            let Some(number) = lasting(group) else { continue };
            for (id, message) in &self.messages {
                let dead = || self.dead.contains_key(&(group.to_owned(), id.clone()));
                if self.is_for((group, number), message)
                    && !self.came.contains(&(number, id.clone()))
                    && !dead()
                {
                    owed.push(format!("{id} for {group}, number {number}"));
                }
            }
        }
        for undertaker in UNDERTAKERS {
            let Some(number) = lasting(undertaker) else {
                continue;
            };
            for key in &self.buried {
                if !self.dead.get(key).is_some_and(|got| got.contains(&number)) {
                    let (group, id) = key;
                    owed.push(format!(
                        "dead letter {id} of {group} for {undertaker}, number {number}"
                    ));
                }
            }
        }
        owed
    }

    /// Whether a message stands in a topic that lasts, and behind where this consumer group began.
    fn is_for(&self, (name, group): (&str, u32), message: &Message) -> bool {
        let Some(life) = self.lives.get(&Name::topic(&message.topic)) else {
            return false;
        };
        let (Some(topic), Some(_)) = (life.lasting, message.stored) else {
            return false;
        };
        let outlives = match (life.asked, self.calm) {
            (None, _) => true,
            // Before, some leader may have taken it for a topic that was deleted.
            (Some(asked), Some(calm)) => message.sent > asked && message.sent > life.over.max(calm) + STALE,
            (Some(_), None) => false,
        };
        let from_end = match self.rules(group) {
            Some((_, rules)) => rules.from_end,
            // Nobody knows who made it.
            None => self.from_end.contains(name),
        };
        let began = || {
            self.begun
                .get(&(topic, group))
                .is_some_and(|at| message.sent > *at)
        };
        outlives && (!from_end || began())
    }

    /// The first try counts.
    fn sending(&mut self, at: Duration, topic: &str, id: &str) {
        let message = self.messages.entry(id.to_owned()).or_insert_with(|| Message {
            topic: topic.to_owned(),
            sent: at,
            stored: None,
            tries: 0,
        });
        message.tries += 1;
    }

    /// When a consumer group was asked for, and its rules, if the operator made it.
    fn rules(&self, group: u32) -> Option<(Duration, &Rules)> {
        match self.made.get(&(Kind::Group, group)) {
            Some((asked, Spec::Group(rules))) => Some((*asked, rules)),
            _ => None,
        }
    }

    /// A number belongs to a name for good.
    fn bears(&mut self, at: Duration, kind: Kind, name: &str, number: u32, wrong: &mut Vec<String>) {
        if !self.numbers.contains_key(&(kind, number)) {
            self.follows(kind, name, number, wrong);
        }
        let known = self.numbers.entry((kind, number));
        let (known, _) = known.or_insert_with(|| (name.to_owned(), at));
        if known != name {
            wrong.push(format!(
                "names: {kind:?} {name} has number {number}, which was given to {known}"
            ));
        }
    }

    /// What the operator made last under a name has a successor only if somebody asked for its deletion since: one that was
    /// asked for before, and comes late, is none of its business.
    fn follows(&self, kind: Kind, name: &str, number: u32, wrong: &mut Vec<String>) {
        let is_of_name = |before: &u32| {
            let known = self.numbers.get(&(kind, *before));
            known.is_some_and(|(known, _)| known == name)
        };
        let mut made = self.made.range((kind, 0)..(kind, number)).rev();
        let last = made.find(|((_, before), _)| is_of_name(before));
        let Some(((_, before), (made, _))) = last else {
            return;
        };
        let life = self.lives.get(&Name {
            kind,
            name: name.to_owned(),
        });
        if life.and_then(|life| life.asked).is_none_or(|asked| asked < *made) {
            wrong.push(format!(
                "names: {kind:?} {name} has number {number}, and nobody asked to delete number {before}, made after {made:?}"
            ));
        }
    }

    fn answered(
        &mut self,
        at: Duration,
        (name, request, asked): (&Name, &Request, Duration),
        (answer, number): (&Answer, Option<u32>),
        wrong: &mut Vec<String>,
    ) {
        if *request == Request::Delete {
            let life = self.lives.entry(name.clone()).or_default();
            // Should it be carried out later, it is of what bore the name when it was asked for.
            life.over = life.over.max(at);
            if *answer == Answer::Done {
                life.done.push((asked, at));
            }
        }
        self.allows(name, request);
        if *answer == Answer::Done {
            self.unnumbered.remove(name);
        }
        let (Request::Create(spec), Answer::Done) = (request, answer) else {
            return;
        };
        let Some(number) = number else {
            self.unnumbered.insert(name.clone(), (asked, spec.clone()));
            return;
        };
        if let Some((known, since)) = self.numbers.get(&(name.kind, number))
            && *since < asked
        {
            wrong.push(format!(
                "names: {name:?} was made at {at:?} with number {number}, which was {known}'s at {since:?}"
            ));
        }
        self.bears(at, name.kind, &name.name, number, wrong);
        self.made.insert((name.kind, number), (asked, spec.clone()));
    }

    fn came(&mut self, at: Duration, it: &Arrival, wrong: &mut Vec<String>) {
        self.bears(at, Kind::Topic, &it.topic, it.topic_number, wrong);
        self.bears(at, Kind::Group, &it.group, it.group_number, wrong);
        if !it.intact {
            wrong.push(format!("names: the body of {} is not what was sent", it.id));
        }
        let Some(message) = self.messages.get(&it.id) else {
            return wrong.push(format!("names: {it:?} came at {at:?} and was never sent"));
        };
        self.gone(it, wrong);
        if let Some(group) = it.topic.strip_prefix(DEAD_LETTERS) {
            let key = (group.to_owned(), it.id.clone());
            let least = LEASE * self.least_attempts(group);
            if !self.burying.contains(&key) && at < message.sent + least {
                wrong.push(format!(
                    "names: {} is a dead letter of {group} at {at:?}, too early for all attempts",
                    it.id
                ));
            }
            self.dead.entry(key).or_default().insert(it.group_number);
            return;
        }
        if topic_of(&it.id) != it.topic {
            wrong.push(format!("names: {it:?} came from another topic"));
        }
        self.predecessors(it, message, wrong);
        self.attempts(at, it, wrong);
        self.came.insert((it.group_number, it.id.clone()));
    }

    /// Whatever is answered, or has been already, it may be carried out.
    fn allows(&mut self, name: &Name, request: &Request) {
        if let Request::Create(Spec::Group(rules)) = request {
            let fewest = self.fewest.entry(name.name.clone()).or_insert(u32::MAX);
            *fewest = rules.max_attempts.min(*fewest);
            if rules.from_end {
                self.from_end.insert(name.name.clone());
            }
        }
    }

    /// The fewest attempts that any consumer group of this name allowed.
    fn least_attempts(&self, group: &str) -> u32 {
        self.fewest.get(group).copied().unwrap_or(DEFAULT_ATTEMPTS)
    }

    /// Nothing comes from, or to, what was deleted, once everybody has heard of it.
    fn gone(&self, it: &Arrival, wrong: &mut Vec<String>) {
        let Some(calm) = self.calm else { return };
        for (name, number) in [
            (Name::topic(&it.topic), it.topic_number),
            (Name::group(&it.group), it.group_number),
        ] {
            let since = self.numbers[&(name.kind, number)].1;
            let done = self.lives.get(&name).map_or(&[][..], |life| &life.done);
            for (asked, answered) in done {
                if since < *asked && it.asked > calm.max(*answered) + STALE {
                    wrong.push(format!(
                        "names: {} came by {name:?}, number {number}, which was deleted at {answered:?}",
                        it.id
                    ));
                }
            }
        }
    }

    /// Nothing of what was before a topic or a consumer group comes by it, unless it starts at the beginning.
    fn predecessors(&self, it: &Arrival, message: &Message, wrong: &mut Vec<String>) {
        let Some(stored) = message.stored else { return };
        // A request that was sent twice may have been carried out again; one that lay in a cut, when that was over.
        let over = match self.calm {
            _ if message.tries == 1 && stored < message.sent + AT_ONCE => stored,
            Some(calm) => stored.max(calm),
            None => Duration::MAX - ON_ITS_WAY,
        };
        let before = |asked: Duration| over + ON_ITS_WAY < asked;
        if let Some((asked, _)) = self.made.get(&(Kind::Topic, it.topic_number))
            && before(*asked)
        {
            wrong.push(format!(
                "names: {} was stored at {stored:?}, and came from {} that was made after {asked:?}",
                it.id, it.topic
            ));
        }
        let topic = self
            .lives
            .get(&Name::topic(&it.topic))
            .map_or(&[][..], |life| &life.done);
        if let Some((asked, rules)) = self.rules(it.group_number)
            && rules.from_end
            && stored < asked
            // Carried out again, it is a new message of a new topic.
            && (before(asked) || topic.is_empty())
        {
            wrong.push(format!(
                "names: {} was stored at {stored:?}, and came to {}, which starts at the end and was made after {asked:?}",
                it.id, it.group
            ));
        }
    }

    /// A consumer group begins with the first attempt, and has its own rules.
    fn attempts(&mut self, at: Duration, it: &Arrival, wrong: &mut Vec<String>) {
        let attempts = u32::try_from(it.attempt).unwrap_or(0);
        let most = match self.rules(it.group_number) {
            Some((asked, rules)) => {
                if at < asked + LEASE * attempts.saturating_sub(1) {
                    wrong.push(format!(
                        "names: {} came at {at:?} with attempt {attempts} to {}, which was made after {asked:?}",
                        it.id, it.group
                    ));
                }
                rules.max_attempts
            }
            None => u32::MAX,
        };
        if attempts == 0 || attempts > most {
            wrong.push(format!(
                "names: {} came to {} with attempt {attempts} of {most}",
                it.id, it.group
            ));
        }
        let key = (it.group_number, it.topic_number, it.place);
        if let Some(acked) = self.acked.get(&key)
            && it.asked > *acked
        {
            wrong.push(format!(
                "names: {} was acknowledged at {acked:?}, and came again",
                it.id
            ));
        }
        if let Some((asked, before)) = self.last.get(&key)
            && it.attempt > *before
            && at < *asked + LEASE * it.attempt.abs_diff(*before)
        {
            wrong.push(format!(
                "names: {} came at {at:?} with attempt {attempts}, and was leased with attempt {before} after {asked:?}",
                it.id
            ));
        }
        self.last.insert(key, (it.asked, it.attempt));
    }

    /// Counts only if the consumer group was not being deleted: else nothing of it may be left, dead letters neither.
    fn buried(&mut self, it: &Arrival) {
        let made = self
            .made
            .get(&(Kind::Group, it.group_number))
            .map(|(asked, _)| *asked);
        let asked = self
            .lives
            .get(&Name::group(&it.group))
            .and_then(|life| life.asked);
        if asked.is_none() || made > asked {
            self.buried.insert((it.group.clone(), it.id.clone()));
        }
    }
}

impl Oracle for Names {
    fn see(&mut self, at: Duration, event: &Event, wrong: &mut Vec<String>) {
        let event = match event {
            Event::Calm => {
                self.calm = Some(at);
                self.register.calm(at);
                return;
            }
            Event::Named(event) => event,
            _ => return,
        };
        match event {
            Named::Asked { name, request } => {
                self.allows(name, request);
                if *request == Request::Delete {
                    let life = self.lives.entry(name.clone()).or_default();
                    (life.asked, life.over) = (Some(at), Duration::MAX);
                }
                self.register.asked(at, name);
            }
            Named::Answered {
                name,
                request,
                asked,
                answer,
                number,
            } => {
                if *request == Request::Delete {
                    self.lives.entry(name.clone()).or_default().over = at;
                }
                self.answered(at, (name, request, *asked), (answer, *number), wrong);
                self.register.answered(at, (name, request, *asked), answer, wrong);
            }
            Named::Sending { topic, id } => self.sending(at, topic, id),
            Named::Stored { id, .. } => {
                if let Some(message) = self.messages.get_mut(id) {
                    message.stored = Some(at);
                }
            }
            Named::Polled { topic, group } => {
                self.begun.entry((*topic, *group)).or_insert(at);
            }
            Named::Came(it) => self.came(at, it, wrong),
            Named::Acked(it) => {
                let key = (it.group_number, it.topic_number, it.place);
                self.acked.entry(key).or_insert(at);
            }
            Named::Burying(it) => {
                self.burying.insert((it.group.clone(), it.id.clone()));
            }
            Named::Buried(it) => self.buried(it),
            Named::Lasting { name, number } => {
                self.bears(at, name.kind, &name.name, *number, wrong);
                self.lives.entry(name.clone()).or_default().lasting = Some(*number);
                if let Some(made) = self.unnumbered.remove(name) {
                    self.made.entry((name.kind, *number)).or_insert(made);
                }
            }
        }
    }

    fn end(&mut self, wrong: &mut Vec<String>) {
        for owed in self.owed() {
            wrong.push(format!("names: {owed} has not come"));
        }
    }
}

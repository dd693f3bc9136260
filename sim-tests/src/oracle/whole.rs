//! P7, for several messages of one request: they are stored together or not at all ("torn batch"), one behind the other in
//! their order and with nothing between them.
//!
//! Whoever sends them again sends the same ones. Nobody can see that a second part was stored later, if nothing came between;
//! so some producers leave it at a first try of which they do not know what became.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Oracle;
use crate::{
    history::{DEAD_LETTERS, Event, Place},
    readers::Readers,
};

/// Requests with several messages, and where those stand.
pub(super) struct Whole {
    readers: Readers,
    requests: Vec<Vec<String>>,
    /// Of each message of theirs: the request, and its place there.
    of: BTreeMap<String, (usize, usize)>,
    at: BTreeMap<Place, String>,
    /// Whatever came, be it as a dead letter.
    came: BTreeSet<String>,
    /// What retention took, and from where.
    forgotten: BTreeSet<String>,
    holes: BTreeSet<Place>,
}

impl Whole {
    /// Messages are for these consumer groups.
    pub(super) fn new(readers: Readers) -> Whole {
        Whole {
            readers,
            requests: Vec::new(),
            of: BTreeMap::new(),
            at: BTreeMap::new(),
            came: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            holes: BTreeSet::new(),
        }
    }

    /// The message that a request has so many places behind this one.
    fn beside(&self, id: &str, by: isize) -> Option<&String> {
        let &(request, number) = self.of.get(id)?;
        self.requests[request].get(number.checked_add_signed(by)?)
    }

    /// Whether one message may stand right behind the other.
    fn judge(&self, before: &Place, after: &Place, wrong: &mut Vec<String>) {
        let (Some(first), Some(second)) = (self.at.get(before), self.at.get(after)) else {
            return;
        };
        let is = |beside: Option<&String>, found: &String| beside.is_none_or(|expected| expected == found);
        if !is(self.beside(first, 1), second) || !is(self.beside(second, -1), first) {
            wrong.push(format!(
                "P7 torn batch: behind {first} at {before:?} stands {second}, which is not how they were sent"
            ));
        }
    }

    fn came(&mut self, place: &Place, id: &str, wrong: &mut Vec<String>) {
        self.came.insert(id.to_owned());
        let is_new = !self.at.contains_key(place);
        if place.topic.starts_with(DEAD_LETTERS) || !is_new {
            return;
        }
        self.at.insert(place.clone(), id.to_owned());
        self.judge(&moved(place, -1), place, wrong);
        self.judge(place, &moved(place, 1), wrong);
    }

    /// Why nobody saw a message that was stored, if it was: nobody wants it, or retention took it.
    fn is_excused(&self, id: &str, place: &Place) -> bool {
        self.readers.of(id).next().is_none() || self.forgotten.contains(id) || self.holes.contains(place)
    }
}

fn moved(place: &Place, by: i64) -> Place {
    Place {
        offset: place.offset + by,
        ..place.clone()
    }
}

impl Oracle for Whole {
    fn see(&mut self, _: Duration, event: &Event, wrong: &mut Vec<String>) {
        match event {
            Event::Together { ids } if !self.of.contains_key(&ids[0]) => {
                let request = self.requests.len();
                let numbers = ids.iter().enumerate();
                self.of
                    .extend(numbers.map(|(number, id)| (id.clone(), (request, number))));
                self.requests.push(ids.clone());
            }
            Event::Delivered(it) => self.came(&it.place, &it.id, wrong),
            Event::Forgotten { place, id, .. } => {
                self.forgotten.extend(id.clone());
                self.holes.insert(place.clone());
            }
            _ => {}
        }
    }

    fn end(&mut self, wrong: &mut Vec<String>) {
        for (place, id) in &self.at {
            for by in [-1, 1] {
                let Some(beside) = self.beside(id, by as isize) else {
                    continue;
                };
                if !self.came.contains(beside) && !self.is_excused(beside, &moved(place, by)) {
                    wrong.push(format!(
                        "P7 torn batch: {id} stands at {place:?}, and {beside}, which was sent with it, nowhere"
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use crate::history::Why;

    fn together() -> (u64, Event) {
        let ids = ["t/1", "t/2", "t/3"].map(String::from).into();
        (0, Event::Together { ids })
    }

    fn judged(events: &[(u64, Event)]) -> Vec<String> {
        let mut oracle = Whole::new(Readers::from(["g".to_owned()]));
        judge(&mut oracle, &[&[together()], events].concat())
    }

    fn came(id: &str, offset: i64) -> (u64, Event) {
        (9, delivered(id, offset, 1, 9))
    }

    #[test]
    fn what_was_sent_together_stands_together_wherever_that_is_or_nowhere() {
        let alone = [came("t/0", 0), came("t/4", 1)];
        assert_eq!(judged(&alone), Vec::<String>::new());
        let whole = [
            came("t/3", 3),
            came("t/0", 0),
            came("t/2", 2),
            came("t/1", 1),
            came("t/4", 4),
        ];
        assert_eq!(judged(&whole), Vec::<String>::new());
        // Again, after the window.
        let twice = [came("t/1", 0), came("t/2", 1), came("t/3", 2)].into_iter();
        let twice: Vec<_> = twice
            .chain([came("t/1", 5), came("t/2", 6), came("t/3", 7)])
            .collect();
        assert_eq!(judged(&twice), Vec::<String>::new());
    }

    #[test]
    fn another_order_something_between_and_a_part_are_found() {
        for torn in [
            [came("t/2", 0), came("t/1", 1), came("t/3", 2)],
            [came("t/1", 0), came("t/2", 1), came("t/4", 2)],
            [came("t/4", 0), came("t/2", 1), came("t/3", 2)],
            [came("t/1", 0), came("t/2", 1), came("t/4", 9)],
        ] {
            assert!(!judged(&torn).is_empty(), "{torn:?}");
        }
    }

    #[test]
    fn what_retention_took_or_what_died_unseen_was_there() {
        let part = || vec![came("t/1", 0), came("t/2", 1)];
        let mut taken = part();
        taken.push((9, forgotten("t/3", 2, Why::Room)));
        assert_eq!(judged(&taken), Vec::<String>::new());
        let Event::Delivered(mut dead) = delivered("t/3", 0, 1, 30) else {
            unreachable!()
        };
        dead.place.topic = "%DLQ%g".into();
        let mut died = part();
        died.push((30, Event::Delivered(dead)));
        assert_eq!(judged(&died), Vec::<String>::new());
        assert_eq!(judged(&part()).len(), 1);
    }
}

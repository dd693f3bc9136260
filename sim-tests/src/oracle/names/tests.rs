//! Synthetic lives of names.

use super::{super::testing::*, *};
use crate::history::names::{TOPICS, UNUSED_GROUP, UNUSED_TOPIC};

const TOPIC: &str = TOPICS[0];
const GROUP: &str = GROUPS[0];

type Story = Vec<(u64, Event)>;

fn named(at: u64, event: Named) -> (u64, Event) {
    (at, Event::Named(event))
}

fn told(at: u64, name: &Name, request: Request, answer: Answer, number: Option<u32>) -> Story {
    let asked = Named::Asked {
        name: name.clone(),
        request: request.clone(),
    };
    let answered = Named::Answered {
        name: name.clone(),
        request,
        asked: S(at),
        answer,
        number,
    };
    vec![named(at, asked), named(at + 1, answered)]
}

fn deleted(at: u64, name: &Name) -> Story {
    told(at, name, Request::Delete, Answer::Done, None)
}

fn topic_made(at: u64, number: u32) -> Story {
    let create = Request::Create(Spec::Topic { queues: 1 });
    told(at, &Name::topic(TOPIC), create, Answer::Done, Some(number))
}

fn group_made(at: u64, number: u32, from_end: bool) -> Story {
    let rules = Rules {
        max_attempts: 2,
        backoff_ms: vec![0],
        from_end,
    };
    let create = Request::Create(Spec::Group(rules));
    told(at, &Name::group(GROUP), create, Answer::Done, Some(number))
}

fn sent(at: u64, id: &str) -> Story {
    let (topic, id) = (TOPIC.to_owned(), id.to_owned());
    let sending = Named::Sending {
        topic: topic.clone(),
        id: id.clone(),
    };
    vec![named(at, sending), named(at, Named::Stored { topic, id })]
}

/// From topic 1 to consumer group 1, at offset 0.
fn arrival(id: &str, asked: u64) -> Arrival {
    Arrival {
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        topic_number: 1,
        group_number: 1,
        place: (0, 0),
        id: id.to_owned(),
        attempt: 1,
        asked: S(asked),
        intact: true,
    }
}

fn came(at: u64, change: impl FnOnce(&mut Arrival)) -> Story {
    let mut it = arrival("spare-0/1", at);
    change(&mut it);
    vec![named(at, Named::Came(it))]
}

fn dead(at: u64, undertaker: usize) -> Story {
    came(at, |it| {
        it.topic = format!("{DEAD_LETTERS}{GROUP}");
        it.topic_number = 9;
        it.group = UNDERTAKERS[undertaker].to_owned();
        it.group_number = 10 + undertaker as u32;
    })
}

fn lasting(at: u64, name: Name, number: u32) -> Story {
    vec![named(at, Named::Lasting { name, number })]
}

fn calm(at: u64) -> Story {
    vec![(at, Event::Calm)]
}

fn judged(story: &[Story]) -> Vec<String> {
    judge(&mut Names::default(), &story.concat())
}

#[track_caller]
fn good(story: &[Story]) {
    assert_eq!(judged(story), Vec::<String>::new());
}

#[track_caller]
fn bad(story: &[Story], what: &str) {
    let wrong = judged(story);
    assert!(wrong.len() == 1 && wrong[0].contains(what), "{wrong:?}");
}

#[test]
fn what_lasts_gets_everything() {
    let story = |got: bool| {
        let mut story = vec![
            topic_made(1, 1),
            group_made(1, 1, false),
            sent(3, "spare-0/1"),
            lasting(4, Name::topic(TOPIC), 1),
            lasting(4, Name::group(GROUP), 1),
        ];
        story.extend(got.then(|| came(5, |_| ())));
        story
    };
    good(&story(true));
    bad(&story(false), "has not come");
}

#[test]
fn what_starts_at_the_end_gets_what_is_sent_after_its_first_receive_and_nothing_older() {
    let story = |sent_at, made_at| {
        vec![
            topic_made(1, 1),
            sent(sent_at, "spare-0/1"),
            group_made(made_at, 1, true),
            vec![named(10, Named::Polled { topic: 1, group: 1 })],
            lasting(20, Name::topic(TOPIC), 1),
            lasting(20, Name::group(GROUP), 1),
        ]
    };
    good(&story(9, 8));
    let mut begun = story(3, 1);
    begun.push(sent(21, "spare-0/2"));
    bad(&begun, "spare-0/2 for");
    let mut old = story(3, 8);
    old.push(came(22, |_| ()));
    bad(&old, "starts at the end");
    // The operator is told that it is made, and hears its number only when it lasts.
    let mut unnumbered = story(3, 8);
    for (_, event) in &mut unnumbered[2] {
        if let Event::Named(Named::Answered { number, .. }) = event {
            *number = None;
        }
    }
    good(&unnumbered);
}

#[test]
fn what_perhaps_starts_at_the_end_owes_nothing_older_and_what_does_not_does() {
    let story = |from_end| {
        let mut made = group_made(8, 1, from_end);
        for (_, event) in &mut made {
            if let Event::Named(Named::Answered { answer, number, .. }) = event {
                (*answer, *number) = (Answer::Unsure, None);
            }
        }
        vec![
            topic_made(1, 1),
            sent(3, "spare-0/1"),
            made,
            vec![named(10, Named::Polled { topic: 1, group: 1 })],
            lasting(20, Name::topic(TOPIC), 1),
            lasting(20, Name::group(GROUP), 1),
        ]
    };
    good(&story(true));
    bad(&story(false), "has not come");
}

#[test]
fn a_topic_that_was_deleted_owes_nothing_and_what_is_sent_to_it_soon_after_neither() {
    let story = |sent_at| {
        vec![
            calm(1),
            topic_made(2, 1),
            deleted(4, &Name::topic(TOPIC)),
            sent(sent_at, "spare-0/1"),
            lasting(40, Name::topic(TOPIC), 2),
            lasting(40, Name::group(GROUP), 1),
        ]
    };
    good(&story(3));
    good(&story(15));
    bad(&story(16), "has not come");
}

#[test]
fn what_was_stored_before_does_not_come_from_a_successor() {
    let story = |sent_at| {
        vec![
            sent(sent_at, "spare-0/1"),
            deleted(14, &Name::topic(TOPIC)),
            topic_made(20, 1),
            came(25, |_| ()),
        ]
    };
    bad(&story(9), "that was made after");
    good(&story(10));
    // A first try that got no answer may lie in a cut until there is none any more.
    let mut twice = story(9);
    twice.insert(0, vec![sent(5, "spare-0/1").swap_remove(0)]);
    good(&twice);
    twice.insert(0, calm(1));
    bad(&twice, "that was made after");
    // So may the first one of a node that passed it on to two leaders.
    let mut passed_on = story(9);
    passed_on[0][0].0 = 8;
    good(&passed_on);
}

#[test]
fn nothing_comes_from_what_is_deleted_once_everybody_knows() {
    let story = |at| {
        vec![
            calm(1),
            topic_made(2, 1),
            sent(4, "spare-0/1"),
            deleted(5, &Name::topic(TOPIC)),
            came(at, |_| ()),
        ]
    };
    good(&story(16));
    bad(&story(17), "which was deleted");
    let mut faults = story(999);
    faults.remove(0);
    good(&faults);
}

#[test]
fn a_successor_begins_with_the_first_attempt_and_has_its_own_rules() {
    let story = |at, attempt| {
        vec![
            sent(1, "spare-0/1"),
            group_made(2, 1, false),
            came(at, |it| it.attempt = attempt),
        ]
    };
    good(&story(12, 2));
    bad(&story(11, 2), "with attempt 2");
    bad(&story(99, 3), "attempt 3 of 2");
    bad(&story(99, 0), "attempt 0 of 2");
}

#[test]
fn what_is_leased_or_acknowledged_does_not_come_again() {
    let again = |at| came(at, |it| it.attempt = 2);
    let first = || vec![sent(1, "spare-0/1"), came(2, |_| ())];
    good(&[first().concat(), again(12)]);
    bad(&[first().concat(), again(11)], "was leased");
    let acked = vec![named(3, Named::Acked(arrival("spare-0/1", 2)))];
    bad(&[first().concat(), acked, again(13)], "was acknowledged");
}

#[test]
fn a_number_is_given_once() {
    bad(
        &[
            topic_made(1, 7),
            told(
                3,
                &Name::topic("spare-1"),
                Request::Create(Spec::Topic { queues: 1 }),
                Answer::Done,
                Some(8),
            ),
            sent(4, "spare-0/1"),
            came(5, |it| it.topic_number = 8),
        ],
        "which was given to spare-1",
    );
    let again = vec![
        topic_made(1, 7),
        deleted(3, &Name::topic(TOPIC)),
        topic_made(5, 7),
    ];
    bad(&again, "was made at");
}

#[test]
fn a_deletion_that_was_asked_for_before_leaves_a_successor_alone() {
    let story = |asked_at: u64| {
        let delete = told(
            asked_at,
            &Name::topic(TOPIC),
            Request::Delete,
            Answer::Unsure,
            None,
        );
        let mut story = vec![
            topic_made(10, 1),
            delete,
            sent(15, "spare-0/1"),
            came(16, |it| it.topic_number = 2),
        ];
        story[..2].sort_by_key(|events| events[0].0);
        story
    };
    bad(&story(8), "nobody asked to delete number 1");
    good(&story(12));
}

#[test]
fn dead_letters_outlive_their_consumer_group_and_come_to_all_undertakers() {
    let story = |deleted_at, got: &[usize]| {
        let mut story = vec![
            group_made(1, 1, false),
            sent(3, "spare-0/1"),
            came(4, |_| ()),
            vec![named(5, Named::Burying(arrival("spare-0/1", 4)))],
        ];
        let buried = vec![named(7, Named::Buried(arrival("spare-0/1", 4)))];
        let gone = deleted(deleted_at, &Name::group(GROUP));
        story.extend(if deleted_at < 7 {
            [gone, buried]
        } else {
            [buried, gone]
        });
        story.extend(got.iter().map(|undertaker| dead(20, *undertaker)));
        for undertaker in [0, 1] {
            story.push(lasting(
                30,
                Name::group(UNDERTAKERS[undertaker]),
                10 + undertaker as u32,
            ));
        }
        story
    };
    good(&story(9, &[0, 1]));
    bad(&story(9, &[0]), "for spare-heir");
    bad(&story(9, &[1]), "for spare-undertaker");
    good(&story(5, &[]));
}

#[test]
fn a_dead_letter_that_nobody_buried_had_all_its_attempts() {
    let story = |at| vec![group_made(1, 1, false), sent(3, "spare-0/1"), dead(at, 0)];
    good(&story(23));
    bad(&story(22), "too early");
}

#[test]
fn foreign_and_damaged_messages_are_found() {
    bad(&[came(1, |_| ())], "never sent");
    bad(&[sent(1, "spare-0/1"), came(2, |it| it.intact = false)], "body");
    let foreign = came(2, |it| it.topic = "spare-1".into());
    bad(&[sent(1, "spare-0/1"), foreign], "another topic");
}

#[test]
fn the_catalogue_is_a_register() {
    let name = Name::topic(UNUSED_TOPIC);
    let create = |queues| Request::Create(Spec::Topic { queues });
    let told = |at, request, answer| told(at, &name, request, answer, None);
    let found = |queues| Answer::Found(Spec::Topic { queues });
    good(&[
        told(1, create(1), Answer::Done),
        told(3, create(2), Answer::Exists),
        told(5, Request::Describe, found(1)),
        told(7, Request::Delete, Answer::Done),
        told(9, Request::Delete, Answer::NotFound),
        told(11, Request::Describe, found(1)),
    ]);
    bad(&[told(1, create(1), Answer::Exists)], "Exists");
    bad(&[told(1, Request::Delete, Answer::Done)], "Done");
    let made = || told(1, create(1), Answer::Done);
    bad(&[made(), told(3, create(1), Answer::Done)], "Done");
    bad(&[made(), told(3, Request::Delete, Answer::NotFound)], "NotFound");
    bad(
        &[made(), told(3, Request::Describe, Answer::NotFound)],
        "NotFound",
    );
    bad(&[made(), told(3, create(2), Answer::Refused("no".into()))], "no");
    // News are old at most so long, once all is calm.
    good(&[calm(1), made(), told(12, Request::Describe, found(2))]);
    bad(&[calm(1), made(), told(13, Request::Describe, found(2))], "Found");
}

#[test]
fn what_is_not_certain_leaves_one_of_two_states_until_it_is_over() {
    let name = Name::group(UNUSED_GROUP);
    let create = |max_attempts| {
        Request::Create(Spec::Group(Rules {
            max_attempts,
            backoff_ms: vec![0],
            from_end: false,
        }))
    };
    let told = |at, request, answer| told(at, &name, request, answer, None);
    let unsure = |end: Answer| {
        [
            calm(0),
            told(1, Request::Delete, Answer::Unsure),
            told(13, Request::Delete, end),
            told(15, Request::Delete, Answer::NotFound),
        ]
    };
    good(&unsure(Answer::Done));
    good(&unsure(Answer::NotFound));
    let late = |calm_at| {
        [
            calm(calm_at),
            told(1, create(1), Answer::Unsure),
            told(11, Request::Delete, Answer::NotFound),
            told(13, Request::Delete, Answer::Done),
        ]
    };
    good(&late(0));
    let mut faults = late(0).to_vec();
    faults.push(told(15, Request::Delete, Answer::Done));
    bad(&faults, "Done");
    good(&faults[1..]);
    let successor = |end: Answer| {
        [
            told(1, Request::Delete, Answer::Unsure),
            told(2, Request::Delete, Answer::NotFound),
            told(3, create(1), Answer::Done),
            told(4, Request::Delete, end),
        ]
    };
    good(&successor(Answer::Done));
    bad(&successor(Answer::NotFound), "NotFound");
    bad(
        &[
            told(1, Request::Delete, Answer::NothingDone),
            told(3, Request::Delete, Answer::Done),
        ],
        "Done",
    );
}

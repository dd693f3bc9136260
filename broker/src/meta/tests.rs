//! The catalogue's rules, one sentence each, and the promise that memory and key-value state agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use flotilla_proto::record::{
    Bootstrap, CreateConsumerGroup, CreateTopic, DeleteConsumerGroup, DeleteTopic, DropDeadLetters, Forget,
    MetaCommand, MetaHead, Node, RegisterNode, Topic, meta_command::Command,
};
use proptest::prelude::*;
use queue_core::{Fault, KeyValue};

use super::*;

mod fixtures;
use fixtures::*;
mod parking;
mod pause;

#[test]
fn nothing_happens_before_the_bootstrap() {
    let mut meta = Meta::default();
    assert_eq!(
        meta.refusal(create_topic("a", 4, false)),
        MetaRefusal::NotBootstrapped
    );
    assert_eq!(meta.refusal(register(node(1, 5))), MetaRefusal::NotBootstrapped);
    assert_eq!((meta.state.cluster(), meta.state.data_shards()), (None, 0));
}

#[test]
fn a_cluster_is_born_once() {
    let mut meta = Meta::born(3);
    assert_eq!(meta.refusal(bootstrap(9)), MetaRefusal::AlreadyBootstrapped);
    assert_eq!((meta.state.cluster(), meta.state.data_shards()), (Some(77), 3));
    assert_eq!(meta.state.initial_nodes(), [1, 2, 3]);
    assert!(meta.state.nodes().values().all(|node| node.incarnation == 1));
}

#[test]
fn a_bootstrap_that_makes_no_sense_is_refused() {
    let mut meta = Meta::default();
    let with = |change: fn(&mut Bootstrap)| {
        let Command::Bootstrap(mut command) = bootstrap(3) else {
            unreachable!()
        };
        change(&mut command);
        Command::Bootstrap(command)
    };
    for command in [
        with(|b| b.cluster = 0),
        with(|b| b.data_shards = 0),
        with(|b| b.data_shards = limits::MAX_DATA_SHARDS + 1),
        with(|b| b.nodes.clear()),
        with(|b| b.nodes[1].id = 3),
        with(|b| b.nodes[1].id = 0),
    ] {
        assert!(matches!(meta.refusal(command), MetaRefusal::Invalid(_)));
    }
}

#[test]
fn the_same_directory_keeps_its_incarnation_and_takes_the_new_addresses() {
    let mut meta = Meta::born(3);
    let moved = Node {
        client_addr: "192.0.2.1:8081".into(),
        ..node(1, 11)
    };
    assert_eq!(
        meta.run(register(moved)),
        MetaReply::Registered { incarnation: 1 }
    );
    assert_eq!(meta.state.nodes()[&1].client_addr, "192.0.2.1:8081");
}

#[test]
fn another_directory_is_another_incarnation() {
    let mut meta = Meta::born(3);
    assert_eq!(
        meta.run(register(node(1, 12))),
        MetaReply::Registered { incarnation: 2 }
    );
    assert_eq!(
        meta.run(register(node(1, 12))),
        MetaReply::Registered { incarnation: 2 }
    );
    assert_eq!(
        meta.run(register(node(1, 11))),
        MetaReply::Registered { incarnation: 3 }
    );
}

#[test]
fn a_node_only_named_at_the_bootstrap_shows_its_directory_later() {
    let mut meta = Meta::born(3);
    assert_eq!(
        meta.run(register(node(2, 22))),
        MetaReply::Registered { incarnation: 1 }
    );
    assert_eq!(
        meta.run(register(node(2, 23))),
        MetaReply::Registered { incarnation: 2 }
    );
}

#[test]
fn a_directory_that_was_replaced_gets_no_incarnation_again() {
    let mut meta = Meta::born(3);
    meta.run(register(node(2, 22)));
    meta.run(register(node(2, 23)));
    let old = Node {
        incarnation: 1,
        ..node(2, 22)
    };
    assert!(matches!(meta.refusal(register(old)), MetaRefusal::Invalid(why) if why.contains("was replaced")));
    assert_eq!(meta.state.nodes()[&2].directory, 23);
}

/// Found by the simulator: a process that was killed had asked for a place, and got it when its successor already had it.
#[test]
fn a_late_directory_does_not_take_the_place_of_the_one_that_came_since() {
    let mut meta = Meta::born(3);
    let born = meta.state.nodes()[&1].directory;
    assert_eq!(
        meta.run(register_instead_of(born, node(1, 12))),
        MetaReply::Registered { incarnation: 2 }
    );
    let refusal = meta.refusal(register_instead_of(born, node(1, 13)));
    assert!(matches!(refusal, MetaRefusal::Invalid(why) if why.contains("meanwhile")));
    assert_eq!(meta.state.nodes()[&1].directory, 12);
    // Its answer was lost, and it asks again; or it looked again.
    for (replaces, directory, incarnation) in [(born, 12, 2), (12, 13, 3)] {
        assert_eq!(
            meta.run(register_instead_of(replaces, node(1, directory))),
            MetaReply::Registered { incarnation }
        );
    }
}

#[test]
fn a_directory_that_begins_with_less_than_it_had_is_not_registered() {
    let mut meta = Meta::born(3);
    let life = |session, opened, synced| {
        register(Node {
            session,
            opened,
            synced,
            ..node(2, 22)
        })
    };
    meta.run(life(1, 0, 50));
    meta.run(life(1, 0, 100));
    assert!(
        matches!(meta.refusal(life(2, 99, 500)), MetaRefusal::Invalid(why) if why.contains("older state"))
    );
    assert_eq!(
        meta.run(life(2, 100, 100)),
        MetaReply::Registered { incarnation: 1 }
    );
}

#[test]
fn numbers_that_cannot_be_are_not_registered() {
    let mut meta = Meta::born(3);
    let more_at_the_start_than_now = Node {
        session: 1,
        opened: 2,
        synced: 1,
        ..node(2, 22)
    };
    assert!(matches!(
        meta.refusal(register(more_at_the_start_than_now)),
        MetaRefusal::Invalid(why) if why.contains("opened with 2")
    ));
    let mut incarnation = 1;
    while incarnation < limits::MAX_INCARNATION {
        incarnation += 1;
        let next = register(node(1, 100 + u64::from(incarnation)));
        assert_eq!(meta.run(next), MetaReply::Registered { incarnation });
    }
    assert!(matches!(
        meta.refusal(register(node(1, 99))),
        MetaRefusal::Invalid(why) if why.contains("too many data directories")
    ));
}

#[test]
fn a_stranger_is_not_registered() {
    let mut meta = Meta::born(3);
    assert_eq!(meta.refusal(register(node(4, 44))), MetaRefusal::UnknownNode);
    assert!(matches!(
        meta.refusal(register(node(1, 0))),
        MetaRefusal::Invalid(_)
    ));
}

#[test]
fn queues_go_round_the_data_shards() {
    let mut meta = Meta::born(3);
    let topic = topic_of(meta.run(create_topic("a", 4, false)));
    assert_eq!(
        (topic.id, topic.queue_shards.as_slice()),
        (1, [2, 3, 1, 2].as_slice())
    );
    let topic = topic_of(meta.run(create_topic("b", 4, false)));
    assert_eq!(
        (topic.id, topic.queue_shards.as_slice()),
        (2, [3, 1, 2, 3].as_slice())
    );
    assert_eq!(topic.created_ms, 1_000);
}

#[test]
fn a_topic_is_made_once_and_shown_again_on_demand() {
    let mut meta = Meta::born(3);
    let first = topic_of(meta.run(create_topic("a", 4, false)));
    assert_eq!(meta.refusal(create_topic("a", 8, false)), MetaRefusal::Exists);
    assert_eq!(topic_of(meta.run(create_topic("a", 8, true))), first);
}

#[test]
fn a_deleted_name_is_free_at_once_and_its_id_never_again() {
    let mut meta = Meta::born(3);
    meta.run(create_topic("a", 4, false));
    assert_eq!(meta.run(delete_topic("a")), MetaReply::Done);
    assert_eq!(meta.refusal(delete_topic("a")), MetaRefusal::NotFound);
    assert!(meta.state.topic_by_id(1).unwrap().deleted);
    assert_eq!(topic_of(meta.run(create_topic("a", 4, false))).id, 2);
    assert_eq!(meta.run(forget(&[1], &[])), MetaReply::Done);
    assert_eq!(
        meta.state.topic("a").unwrap().id,
        2,
        "forgetting the old one takes the new one's name"
    );
    meta.run(delete_topic("a"));
    meta.run(forget(&[2], &[]));
    assert_eq!(topic_of(meta.run(create_topic("a", 4, false))).id, 3);
}

#[test]
fn a_late_deletion_leaves_the_successor_alone() {
    let mut meta = Meta::born(3);
    meta.run(create_topic("a", 4, false));
    meta.run(create_group("g", false));
    assert_eq!(meta.run(delete_topic_numbered("a", 1)), MetaReply::Done);
    assert_eq!(meta.run(delete_group_numbered("g", 1)), MetaReply::Done);
    meta.run(create_topic("a", 4, false));
    meta.run(create_group("g", false));
    assert_eq!(meta.refusal(delete_topic_numbered("a", 1)), MetaRefusal::NotFound);
    assert_eq!(meta.refusal(delete_group_numbered("g", 1)), MetaRefusal::NotFound);
    assert_eq!(meta.state.deletions(), 2);
}

#[test]
fn only_what_is_deleted_is_forgotten() {
    let mut meta = Meta::born(3);
    meta.run(create_topic("a", 1, false));
    meta.run(create_group("g", false));
    for command in [forget(&[1], &[]), forget(&[], &[1])] {
        assert!(matches!(meta.refusal(command), MetaRefusal::Invalid(_)));
    }
    meta.run(delete_group("g"));
    meta.run(delete_topic("a"));
    assert!(
        matches!(meta.refusal(forget(&[1, 2], &[1])), MetaRefusal::Invalid(_)),
        "topic 2 is the dead-letter topic: all or nothing"
    );
    assert_eq!(meta.run(forget(&[1, 99], &[1])), MetaReply::Done);
    assert_eq!(
        (meta.state.topic_by_id(1), meta.state.group_by_id(1)),
        (None, None)
    );
    assert_eq!(
        meta.run(forget(&[1], &[1])),
        MetaReply::Done,
        "once more is no harm"
    );
}

#[test]
fn what_is_gone_is_known_also_when_it_is_forgotten_and_not_of_what_never_was() {
    let mut meta = Meta::born(3);
    meta.run(create_topic("a", 1, false));
    meta.run(create_group("g", false));
    let gone = |meta: &Meta| (meta.state.topic_is_gone(1), meta.state.group_is_gone(1));
    assert_eq!(gone(&meta), (false, false));
    meta.run(delete_topic("a"));
    meta.run(delete_group("g"));
    assert_eq!(gone(&meta), (true, true));
    meta.run(forget(&[1], &[1]));
    assert_eq!(gone(&meta), (true, true));
    assert!(
        !meta.state.topic_is_gone(3) && !meta.state.group_is_gone(2),
        "not given out yet"
    );
}

#[test]
fn empty_dead_letter_topics_go_with_the_last_trace_of_their_consumer_group() {
    let mut meta = Meta::born(3);
    meta.run(create_group("g", false));
    let dead_letters = meta.state.topic("%DLQ%g").unwrap().id;
    let still_there = |meta: &mut Meta| {
        assert_eq!(meta.run(drop_dead_letters(&[dead_letters, 99])), MetaReply::Done);
        meta.state.topic("%DLQ%g").is_some()
    };
    assert!(still_there(&mut meta), "it has an owner");
    meta.run(delete_group("g"));
    assert!(
        still_there(&mut meta),
        "messages may still come from what is not dropped yet"
    );
    meta.run(create_group("g", false));
    meta.run(forget(&[], &[1]));
    assert!(still_there(&mut meta), "it has a new owner");
    meta.run(delete_group("g"));
    meta.run(forget(&[], &[2]));
    assert!(!still_there(&mut meta));
    meta.run(create_topic("a", 1, false));
    let topic = meta.state.topic("a").unwrap().id;
    assert!(matches!(
        meta.refusal(drop_dead_letters(&[topic])),
        MetaRefusal::Invalid(_)
    ));
}

/// Found by reading: what was deleted counted for ever, so that after 20,000 creations nothing could be made.
#[test]
fn more_can_be_made_in_a_clusters_life_than_it_may_have_at_once() {
    let mut meta = Meta::born(3);
    let (mut kv, command) = (Map::default(), |command| MetaCommand {
        command: Some(command),
    });
    let mut run = |state: &mut MetaState, what| {
        let reply = state.apply(&mut kv, 1, &command(what)).unwrap();
        assert!(!matches!(reply, MetaReply::Refused(_)), "{reply:?}");
    };
    for number in 0..limits::MAX_GROUPS as u32 + 10 {
        let state = &mut meta.state;
        run(state, create_topic("t", 8, false));
        run(state, create_group("g", false));
        run(state, delete_topic("t"));
        run(state, delete_group("g"));
        run(state, forget(&[2 * number + 1], &[number + 1]));
        run(state, drop_dead_letters(&[2 * number + 2]));
        run(state, forget(&[2 * number + 2], &[]));
        assert_eq!((state.count_topics(), state.count_groups()), ((0, 0), 0));
    }
    assert!(kv.0.len() == 1, "the head: {} keys", kv.0.len());
}

#[test]
fn ids_that_are_used_up_are_a_refusal() {
    let mut meta = Meta::born(3);
    let head = MetaHead {
        cluster: 77,
        data_shards: 3,
        initial_nodes: vec![1, 2, 3],
        last_topic_id: u32::MAX,
        last_group_id: 5,
        deletions: 0,
    };
    keys::put(&mut meta.kv, keys::HEAD, &head).unwrap();
    meta.state = MetaState::load(&meta.kv).unwrap();
    for command in [create_topic("a", 1, false), create_group("g", false)] {
        assert!(matches!(meta.refusal(command), MetaRefusal::Limit(_)));
    }
}

#[test]
fn a_consumer_group_comes_with_a_dead_letter_queue_in_every_data_shard() {
    let mut meta = Meta::born(3);
    let MetaReply::Group(group) = meta.run(create_group("g", false)) else {
        panic!("no group")
    };
    assert_eq!((group.id, group.version, group.deleted), (1, 1, false));
    assert_eq!(meta.state.topic("%DLQ%g").unwrap().queue_shards, [1, 2, 3]);
    assert_eq!(meta.refusal(create_group("g", false)), MetaRefusal::Exists);
    assert_eq!(meta.run(create_group("g", true)), MetaReply::Group(group));
}

#[test]
fn dead_letters_outlive_their_consumer_group_and_meet_its_successor() {
    let mut meta = Meta::born(3);
    meta.run(create_group("g", false));
    let dead_letters = meta.state.topic("%DLQ%g").unwrap().id;
    assert!(matches!(
        meta.refusal(delete_topic("%DLQ%g")),
        MetaRefusal::Invalid(_)
    ));
    meta.run(delete_group("g"));
    assert_eq!(meta.state.group_by_id(1).unwrap().version, 2);
    meta.run(create_group("g", false));
    assert_eq!(meta.state.topic("%DLQ%g").unwrap().id, dead_letters);
    assert_eq!(meta.state.group("g").unwrap().id, 2);
    meta.run(delete_group("g"));
    assert_eq!(meta.run(delete_topic("%DLQ%g")), MetaReply::Done);
}

#[test]
fn names_and_numbers_that_would_harm_the_state_are_refused() {
    let mut meta = Meta::born(3);
    let long = "n".repeat(limits::MAX_NAME_BYTES + 1);
    for command in [
        create_topic("", 1, false),
        create_topic(&long, 1, false),
        create_topic("%DLQ%g", 1, false),
        create_topic("a", 0, false),
        create_topic("a", limits::MAX_QUEUES_PER_TOPIC + 1, false),
        create_group("", false),
        create_group(&long[..limits::MAX_NAME_BYTES], false),
        Command::CreateConsumerGroup(CreateConsumerGroup {
            name: "g".into(),
            ..Default::default()
        }),
    ] {
        assert!(matches!(meta.refusal(command), MetaRefusal::Invalid(_)));
    }
}

#[test]
fn the_cluster_has_a_bounded_number_of_queues() {
    let mut meta = Meta {
        state: MetaState::default(),
        kv: Map::default(),
    };
    meta.run(bootstrap(3));
    let full = limits::MAX_QUEUES_TOTAL / limits::MAX_QUEUES_PER_TOPIC as usize;
    for topic in 0..full {
        meta.run(create_topic(
            &format!("t{topic}"),
            limits::MAX_QUEUES_PER_TOPIC,
            false,
        ));
    }
    let refused = meta.refusal(create_topic("more", limits::MAX_QUEUES_PER_TOPIC, false));
    assert!(matches!(refused, MetaRefusal::Limit(_)), "{refused:?}");
}

#[test]
fn an_entry_this_build_cannot_read_is_an_error_and_not_skipped() {
    let good = encode(
        5,
        &MetaCommand {
            command: Some(delete_topic("a")),
        },
    );
    assert_eq!(decode(&good).unwrap().0, 5);
    let mut newer = good.to_vec();
    newer[0] = 2;
    assert_eq!(decode(&newer.into()), Err(PayloadError::Version(2)));
    assert_eq!(
        decode(&encode(5, &MetaCommand { command: None })),
        Err(PayloadError::UnknownCommand)
    );
    assert!(matches!(decode(&Bytes::new()), Err(PayloadError::Malformed(_))));
    assert!(matches!(
        decode(&good.slice(..6)),
        Err(PayloadError::Malformed(_))
    ));
    assert!(matches!(
        decode(&good.slice(..good.len() - 1)),
        Err(PayloadError::Malformed(_))
    ));
}

fn any_command() -> impl Strategy<Value = Command> {
    let name = || prop_oneof![Just("a"), Just("b"), Just("c"), Just("%DLQ%a"), Just("")];
    prop_oneof![
        1 => (1..4_u32).prop_map(bootstrap),
        2 => (0..5_u32, 0..3_u64).prop_map(|(id, directory)| register(node(id, directory))),
        4 => (name(), 0..5_u32, any::<bool>()).prop_map(|(name, queues, again)| create_topic(name, queues, again)),
        3 => name().prop_map(delete_topic),
        4 => (name(), any::<bool>()).prop_map(|(name, again)| create_group(name, again)),
        3 => name().prop_map(delete_group),
        2 => (0..6_u32).prop_map(|id| forget(&[id], &[])),
        2 => (0..6_u32).prop_map(|id| forget(&[], &[id])),
        2 => (0..6_u32).prop_map(|id| drop_dead_letters(&[id])),
    ]
}

proptest! {
    // `run` itself compares the loaded with the kept state after every step.
    #[test]
    fn after_any_commands_every_topic_and_group_is_found_by_its_name(
        commands in proptest::collection::vec(any_command(), 1..60),
    ) {
        let mut meta = Meta::default();
        let mut ids = BTreeSet::new();
        for command in commands {
            if let MetaReply::Topic(topic) = meta.run(command) {
                ids.insert(topic.id);
            }
            for topic in meta.state.topics() {
                prop_assert!(!topic.deleted);
                prop_assert!(meta.state.topic(&topic.name).as_ref() == Some(topic));
                prop_assert!(topic.queue_shards.iter().all(|shard| (1..=meta.state.data_shards()).contains(shard)));
            }
            for group in meta.state.groups() {
                prop_assert!(!group.deleted);
                prop_assert!(meta.state.topic(&dead_letter_topic(&group.name)).is_some());
            }
        }
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode(&bytes.clone().into());
        let _ = MetaReply::decode(bytes.into());
    }
}

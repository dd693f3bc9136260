//! A consumer group that is paused, as the catalogue has it.

use flotilla_proto::record::{ConsumerGroup, PauseConsumerGroup};

use super::*;

fn pause(group: &ConsumerGroup, paused: bool) -> Command {
    Command::PauseConsumerGroup(PauseConsumerGroup {
        id: group.id,
        version: group.version,
        paused,
    })
}

#[test]
fn a_pause_raises_the_version_and_what_a_catalogue_must_know_of_and_a_late_one_does_nothing() {
    let mut meta = Meta::born(3);
    meta.run(create_group("readers", false));
    let begun = meta.state.group("readers").unwrap();
    let changes = meta.state.deletions();
    let MetaReply::Group(paused) = meta.run(pause(&begun, true)) else {
        panic!("it is paused")
    };
    assert!(paused.paused && paused.version > begun.version);
    assert!(meta.state.deletions() > changes);
    assert!(matches!(
        meta.refusal(pause(&begun, false)),
        MetaRefusal::Invalid(_)
    ));
    assert_eq!(meta.state.group("readers").unwrap(), paused);
    let MetaReply::Group(resumed) = meta.run(pause(&paused, false)) else {
        panic!("it goes on")
    };
    assert!(!resumed.paused && resumed.version > paused.version);
    meta.run(delete_group("readers"));
    assert_eq!(meta.refusal(pause(&resumed, true)), MetaRefusal::NotFound);
}

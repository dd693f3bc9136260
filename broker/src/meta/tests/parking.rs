//! What becomes of poison messages of a consumer group, as the catalogue has it.

use flotilla_proto::record::{ConsumerGroup, CreateConsumerGroup, SetParking};

use super::*;

fn create(name: &str, fifo: bool, park: bool) -> Command {
    Command::CreateConsumerGroup(CreateConsumerGroup {
        name: name.into(),
        max_attempts: 17,
        fifo,
        park,
        ..Default::default()
    })
}

fn set(group: &ConsumerGroup, park: bool) -> Command {
    Command::SetParking(SetParking {
        id: group.id,
        version: group.version,
        park,
    })
}

#[test]
fn the_policy_raises_the_version_and_a_late_change_does_nothing() {
    let mut meta = Meta::born(3);
    meta.run(create("readers", true, true));
    let begun = meta.state.group("readers").unwrap();
    assert!(begun.park);
    let changes = meta.state.deletions();
    let MetaReply::Group(changed) = meta.run(set(&begun, false)) else {
        panic!("it is changed")
    };
    assert!(!changed.park && changed.version > begun.version);
    assert!(meta.state.deletions() > changes);
    assert!(matches!(meta.refusal(set(&begun, true)), MetaRefusal::Invalid(_)));
    assert_eq!(meta.state.group("readers").unwrap(), changed);
    meta.run(delete_group("readers"));
    assert_eq!(meta.refusal(set(&changed, true)), MetaRefusal::NotFound);
}

#[test]
fn only_what_comes_in_order_can_stop() {
    let mut meta = Meta::born(3);
    assert!(matches!(
        meta.refusal(create("plain", false, true)),
        MetaRefusal::Invalid(_)
    ));
    meta.run(create("plain", false, false));
    let plain = meta.state.group("plain").unwrap();
    assert!(matches!(meta.refusal(set(&plain, true)), MetaRefusal::Invalid(_)));
    assert_eq!(
        meta.run(set(&plain, false)),
        MetaReply::Group(meta.state.group("plain").unwrap())
    );
}

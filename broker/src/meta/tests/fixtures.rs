//! A catalogue to try commands on, and the commands.

use super::*;

#[derive(Default, Clone, PartialEq, Debug)]
pub(super) struct Map(pub(super) BTreeMap<Vec<u8>, Bytes>);

impl KeyValue for Map {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.0.get(key).cloned())
    }
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        let pairs = self.0.range(from.to_vec()..to.to_vec()).take(limit);
        Ok(pairs
            .map(|(key, value)| (Bytes::from(key.clone()), value.clone()))
            .collect())
    }
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.0.insert(key.to_vec(), Bytes::copy_from_slice(value));
        Ok(())
    }
    fn delete(&mut self, key: &[u8]) -> Result<(), Fault> {
        self.0.remove(key);
        Ok(())
    }
}

#[derive(Default)]
pub(super) struct Meta {
    pub(super) state: MetaState,
    pub(super) kv: Map,
}

impl Meta {
    pub(super) fn born(data_shards: u32) -> Self {
        let mut meta = Meta::default();
        assert_eq!(meta.run(bootstrap(data_shards)), MetaReply::Bootstrapped);
        meta
    }

    pub(super) fn run(&mut self, command: Command) -> MetaReply {
        let command = MetaCommand {
            command: Some(command),
        };
        // Every command of every test takes the way through the log.
        let (time_ms, command) = decode(&encode(1_000, &command)).unwrap();
        let reply = self.state.apply(&mut self.kv, time_ms, &command).unwrap();
        assert_eq!(
            MetaState::load(&self.kv).unwrap(),
            self.state,
            "loaded and kept state differ"
        );
        assert_eq!(
            MetaReply::decode(reply.encode()).unwrap(),
            reply,
            "a reply changed on its way"
        );
        reply
    }

    pub(super) fn refusal(&mut self, command: Command) -> MetaRefusal {
        let before = (self.state.clone(), self.kv.clone());
        let MetaReply::Refused(refusal) = self.run(command) else {
            panic!("not refused")
        };
        assert_eq!(
            before,
            (self.state.clone(), self.kv.clone()),
            "a refusal changed something"
        );
        refusal
    }
}

pub(super) fn node(id: u32, directory: u64) -> Node {
    Node {
        id,
        directory,
        peer_addr: format!("10.0.0.{id}:8083"),
        ..Node::default()
    }
}

pub(super) fn bootstrap(data_shards: u32) -> Command {
    let nodes = vec![node(3, 33), node(1, 11), node(2, 0)];
    Command::Bootstrap(Bootstrap {
        cluster: 77,
        nodes,
        data_shards,
    })
}

pub(super) fn create_topic(name: &str, queues: u32, if_absent: bool) -> Command {
    Command::CreateTopic(CreateTopic {
        name: name.into(),
        queues,
        message_type: 1,
        if_absent,
        ageing_ms: 0,
    })
}

pub(super) fn delete_topic(name: &str) -> Command {
    delete_topic_numbered(name, 0)
}

/// 0 is whoever bears the name.
pub(super) fn delete_topic_numbered(name: &str, id: u32) -> Command {
    let name = name.into();
    Command::DeleteTopic(DeleteTopic { name, id })
}

pub(super) fn create_group(name: &str, if_absent: bool) -> Command {
    let name = name.into();
    Command::CreateConsumerGroup(CreateConsumerGroup {
        name,
        max_attempts: 17,
        if_absent,
        ..Default::default()
    })
}

pub(super) fn delete_group(name: &str) -> Command {
    delete_group_numbered(name, 0)
}

/// 0 is whoever bears the name.
pub(super) fn delete_group_numbered(name: &str, id: u32) -> Command {
    let name = name.into();
    Command::DeleteConsumerGroup(DeleteConsumerGroup { name, id })
}

pub(super) fn register(node: Node) -> Command {
    register_instead_of(0, node)
}

/// 0 is whichever directory is known.
pub(super) fn register_instead_of(replaces: u64, node: Node) -> Command {
    Command::RegisterNode(RegisterNode {
        node: Some(node),
        replaces,
    })
}

pub(super) fn forget(topics: &[u32], groups: &[u32]) -> Command {
    Command::Forget(Forget {
        topics: topics.into(),
        groups: groups.into(),
    })
}

pub(super) fn drop_dead_letters(topics: &[u32]) -> Command {
    Command::DropDeadLetters(DropDeadLetters {
        topics: topics.into(),
    })
}

pub(super) fn topic_of(reply: MetaReply) -> Arc<Topic> {
    match reply {
        MetaReply::Topic(topic) => topic,
        other => panic!("{other:?}"),
    }
}

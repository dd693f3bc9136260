//! A shard without a log: a core, its key-value state, and short ways to say a command.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::record::{
    Ack, Append, Backoff, Command, Configure, CopyForward, CustomizedBackoff, Deliver, DropGroup, DropQueue,
    Expiry, Fire, LeaseRef, Recall, Release, Retime, Run, Seek, StartAt, Subscribe, Tick, Timer, Trim,
    Written, WrittenLeases, backoff::Strategy, command, configure, release::Action,
};
use queue_core::{
    AckResult, Context, Core, Effect, Fault, GroupId, InFlightView, KeyValue, Lease, Outcome, Position,
    QueueId, ReleaseResult, Reply, SubscriptionView,
};

/// Two queues of one topic, one of another, and a dead-letter queue.
pub(crate) const Q: u64 = 1 << 32;
pub(crate) const Q_TWIN: u64 = (1 << 32) | 1;
pub(crate) const Q_OTHER: u64 = 2 << 32;
pub(crate) const DLQ: u64 = 9 << 32;
pub(crate) const G: u32 = 1;
pub(crate) const G_OTHER: u32 = 2;
/// The length of leases here.
pub(crate) const LEASE_MS: u64 = 1_000;
/// The wait after attempt 1, 2 and all others.
pub(crate) const BACKOFF_MS: [u64; 2] = [100, 300];
/// When time begins here.
pub(crate) const START_MS: u64 = 1_000_000;
/// What the wall clock shows here.
pub(crate) const WALL_MS: u64 = 1_700_000_000_000;

/// Ordered keys in memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Map(pub(crate) BTreeMap<Vec<u8>, Bytes>);

impl KeyValue for Map {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Fault> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = self.0.range(from.to_vec()..to.to_vec()).take(limit);
        Ok(range
            .map(|(key, value)| (Bytes::copy_from_slice(key), value.clone()))
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

/// A shard; each command is an entry of its own.
#[derive(Debug, Clone)]
pub(crate) struct Shard {
    pub(crate) core: Core,
    pub(crate) kv: Map,
    pub(crate) index: u64,
    pub(crate) now_ms: u64,
    /// The leader's wall clock.
    pub(crate) wall_ms: u64,
    /// Check everything after each command.
    pub(crate) careful: bool,
}

impl Shard {
    pub(crate) fn new() -> Self {
        Self {
            core: Core::default(),
            kv: Map::default(),
            index: 0,
            now_ms: START_MS,
            wall_ms: WALL_MS,
            careful: true,
        }
    }

    /// With consumer group `G` on `Q`: three attempts, dead letters to `DLQ`.
    pub(crate) fn subscribed() -> Self {
        let mut shard = Self::new();
        shard.subscribe(G, Q, StartAt::First);
        shard
    }

    pub(crate) fn outcome(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let context = Context {
            position: place(self.index),
            time_ms: self.now_ms,
            wall_ms: self.wall_ms,
        };
        let outcome = self.core.apply(&mut self.kv, context, &command).unwrap();
        if self.careful {
            self.core.check(&self.kv).unwrap();
        }
        outcome
    }

    pub(crate) fn apply(&mut self, command: Command) -> Reply {
        self.outcome(command).reply
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    /// (queue, offset, duplicate)
    pub(crate) fn append(&mut self, queue: u64, id: &str) -> (u64, u64, bool) {
        match self.apply(append(queue, id)) {
            Reply::Appended {
                queue,
                offset,
                duplicate,
            } => (queue.0, offset, duplicate),
            other => panic!("{other:?}"),
        }
    }

    /// Appends `count` messages with ids of their own.
    pub(crate) fn fill(&mut self, queue: u64, count: u64) {
        for _ in 0..count {
            let id = format!("filled-{}", self.index);
            assert!(!self.append(queue, &id).2);
        }
    }

    pub(crate) fn subscribe(&mut self, group: u32, queue: u64, start_at: StartAt) {
        let subscribe = subscription(group, queue, start_at, 3, DLQ);
        assert_eq!(
            self.apply(configure(configure::What::Subscribe(subscribe))),
            Reply::Configured { more: false }
        );
    }

    /// What the leader would deliver, up to `max`.
    pub(crate) fn deliver(&mut self, group: u32, queue: u64, max: usize, nonce: u64) -> Vec<Lease> {
        self.deliver_as(group, queue, max, nonce, false)
    }

    pub(crate) fn deliver_as(
        &mut self,
        group: u32,
        queue: u64,
        max: usize,
        nonce: u64,
        auto_renew: bool,
    ) -> Vec<Lease> {
        let chosen = self
            .core
            .selectable(GroupId(group), QueueId(queue), self.now_ms, max, usize::MAX);
        let deliver = Deliver {
            group,
            queue,
            redeliver: chosen.redeliver,
            first_new: chosen.first_new,
            new: taken(chosen.new_count),
            deadline_ms: self.now_ms + LEASE_MS,
            nonce,
            auto_renew,
            client: 7,
            ..Deliver::default()
        };
        self.delivered(deliver)
    }

    pub(crate) fn delivered(&mut self, deliver: Deliver) -> Vec<Lease> {
        match self.apply(command(command::Command::Deliver(deliver))) {
            Reply::Delivered { leases } => leases,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn ack(&mut self, group: u32, queue: u64, leases: &[(u64, u64)]) -> Vec<AckResult> {
        match self.apply(ack(group, queue, leases)) {
            Reply::Acked { results } => results,
            other => panic!("{other:?}"),
        }
    }

    /// Of `G` on `Q`, under `nonce`.
    pub(crate) fn release(
        &mut self,
        offset: u64,
        nonce: u64,
        action: Action,
        at_ms: Option<u64>,
        new_nonce: u64,
    ) -> ReleaseResult {
        match self.apply(release(G, Q, (offset, nonce), action as i32, at_ms, new_nonce)) {
            Reply::Released(result) => result,
            other => panic!("{other:?}"),
        }
    }

    /// (changed, more) of a command that prolongs or ends leases.
    pub(crate) fn prolong(&mut self, command: Command) -> (u32, bool) {
        match self.apply(command) {
            Reply::Prolonged { changed, more } => (changed, more),
            other => panic!("{other:?}"),
        }
    }

    /// (expired, dead lettered, more)
    pub(crate) fn tick(&mut self, limit: u32) -> (u32, u32, bool) {
        let command = tick(self.core.expiries(self.now_ms, limit as usize));
        ticked(self.apply(command))
    }

    /// (first, more)
    pub(crate) fn trim(&mut self, queue: u64, first: u64, limit: u32) -> (u64, bool) {
        match self.apply(trim(queue, first, limit)) {
            Reply::Trimmed { first, more } => (first, more),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn copy_forward(&mut self, queue: u64, offset: u64) -> bool {
        match self.apply(copy_forward(queue, offset)) {
            Reply::Copied(copied) => copied,
            other => panic!("{other:?}"),
        }
    }

    /// True if there is more to do.
    pub(crate) fn drop_queue(&mut self, queue: u64, limit: u32) -> bool {
        self.configured(configure::What::DropQueue(DropQueue {
            queue,
            limit,
            deletions: 0,
        }))
    }

    /// True if there is more to do.
    pub(crate) fn drop_group(&mut self, group: u32, limit: u32) -> bool {
        self.configured(configure::What::DropGroup(DropGroup {
            group,
            limit,
            deletions: 0,
        }))
    }

    fn configured(&mut self, what: configure::What) -> bool {
        match self.apply(configure(what)) {
            Reply::Configured { more } => more,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn view(&self, group: u32, queue: u64) -> SubscriptionView {
        self.core
            .subscription(GroupId(group), QueueId(queue))
            .expect("subscribed")
    }

    /// Of `G` on `Q`.
    pub(crate) fn in_flight(&self, offset: u64) -> Option<InFlightView> {
        self.core.in_flight(GroupId(G), QueueId(Q), offset)
    }

    pub(crate) fn next(&self, queue: u64) -> u64 {
        self.core.queue(QueueId(queue)).map_or(0, |queue| queue.next)
    }

    /// The entry a message is read from; nothing if it is forgotten.
    pub(crate) fn entry_of(&self, queue: u64, offset: u64) -> Option<u64> {
        self.core
            .locate(&self.kv, QueueId(queue), offset)
            .unwrap()
            .map(|stored| stored.position.index)
    }

    pub(crate) fn oldest(&self) -> Option<u64> {
        self.core.oldest_live_index(&self.kv).unwrap()
    }

    /// (queue, offset) of what only a copy lets go.
    pub(crate) fn stragglers(&self, through: u64, limit: usize) -> Vec<(u64, u64)> {
        self.stragglers_of(through, limit, u64::MAX)
    }

    /// The same, of so many bytes.
    pub(crate) fn stragglers_of(&self, through: u64, limit: usize, bytes: u64) -> Vec<(u64, u64)> {
        let found = self.core.stragglers(&self.kv, through, limit, bytes).unwrap();
        found
            .into_iter()
            .map(|(queue, offset, _)| (queue.0, offset))
            .collect()
    }
}

/// Where the only command of an entry stands.
pub(crate) fn place(index: u64) -> Position {
    Position {
        index,
        frame_offset: 13,
        frame_len: 40,
    }
}

pub(crate) fn offsets(leases: &[Lease]) -> Vec<u64> {
    leases.iter().map(|lease| lease.offset).collect()
}

pub(crate) fn visible(group: u32, queue: u64, at_ms: u64) -> Effect {
    Effect::Visible {
        group: GroupId(group),
        queue: QueueId(queue),
        at_ms,
    }
}

pub(crate) fn command(command: command::Command) -> Command {
    Command {
        command: Some(command),
    }
}

pub(crate) fn append(queue: u64, id: &str) -> Command {
    append_as(queue, id, 0, 0)
}

/// It waits until then; with 0 it does not.
pub(crate) fn append_due(queue: u64, id: &str, due_ms: u64) -> Command {
    append_as(queue, id, 0, due_ms)
}

/// Of a message group.
pub(crate) fn append_in(queue: u64, id: &str, message_group: u64) -> Command {
    append_as(queue, id, message_group, 0)
}

pub(crate) fn append_as(queue: u64, id: &str, message_group: u64, due_ms: u64) -> Command {
    let message = Bytes::from_static(b"never looked into");
    command(command::Command::Append(Append {
        queue,
        message_id: id.into(),
        message,
        message_group,
        due_ms,
        ..Append::default()
    }))
}

pub(crate) fn fire(timers: Vec<Timer>) -> Command {
    command(command::Command::Fire(Fire { timers }))
}

pub(crate) fn recall(queue: u64, timer: u64) -> Command {
    command(command::Command::Recall(Recall {
        queue,
        timer,
        message_id: 0,
    }))
}

pub(crate) fn retime(queue: u64, timer: u64, due_ms: u64) -> Command {
    let message = Bytes::from_static(b"never looked into");
    command(command::Command::Retime(Retime {
        queue,
        timer,
        due_ms,
        message,
    }))
}

pub(crate) fn ack(group: u32, queue: u64, leases: &[(u64, u64)]) -> Command {
    let leases = leases
        .iter()
        .map(|&(offset, nonce)| LeaseRef { offset, nonce })
        .collect();
    command(command::Command::Ack(Ack { group, queue, leases }))
}

pub(crate) fn release(
    group: u32,
    queue: u64,
    (offset, nonce): (u64, u64),
    action: i32,
    at_ms: Option<u64>,
    new_nonce: u64,
) -> Command {
    let lease = Some(LeaseRef { offset, nonce });
    command(command::Command::Release(Release {
        group,
        queue,
        lease,
        action,
        at_ms,
        new_nonce,
    }))
}

/// Of `G` on `Q`, of one delivery.
pub(crate) fn written(nonce: u64, offsets: &[u64], until_ms: u64) -> Command {
    let leases = WrittenLeases {
        group: G,
        queue: Q,
        nonce,
        offsets: offsets.to_vec(),
    };
    command(command::Command::Written(Written {
        leases: vec![leases],
        until_ms,
    }))
}

/// So many new ones, none passed over.
pub(crate) fn taken(count: u32) -> Vec<Run> {
    runs(&[(count, false)])
}

/// So many new ones, passed over or not.
pub(crate) fn runs(runs: &[(u32, bool)]) -> Vec<Run> {
    let runs = runs.iter();
    let run = |&(count, filtered): &(u32, bool)| Run {
        count,
        filtered,
        blocked: false,
    };
    runs.map(run).collect()
}

/// (expired, dead_lettered, more)
pub(crate) fn ticked(reply: Reply) -> (u32, u32, bool) {
    match reply {
        Reply::Ticked {
            expired,
            dead_lettered,
            more,
        } => (expired, dead_lettered, more),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn tick(expiries: Vec<Expiry>) -> Command {
    command(command::Command::Tick(Tick { expiries }))
}

pub(crate) fn trim(queue: u64, first: u64, limit: u32) -> Command {
    command(command::Command::Trim(Trim { queue, first, limit }))
}

pub(crate) fn seek((group, queue, to, limit): (u32, u64, u64, u32), epoch: u64, id: u64) -> Command {
    command(command::Command::Seek(Seek {
        group,
        queue,
        from: 0,
        to,
        limit,
        epoch,
        id,
    }))
}

pub(crate) fn copy_forward(queue: u64, offset: u64) -> Command {
    let message = Bytes::from_static(b"never looked into");
    command(command::Command::CopyForward(CopyForward {
        queue,
        offset,
        message,
    }))
}

pub(crate) fn configure(what: configure::What) -> Command {
    command(command::Command::Configure(Configure { what: Some(what) }))
}

/// With the backoff of [`BACKOFF_MS`].
pub(crate) fn subscription(
    group: u32,
    queue: u64,
    start_at: StartAt,
    max_attempts: u32,
    dead_letter_queue: u64,
) -> Subscribe {
    let waits = CustomizedBackoff {
        next_ms: BACKOFF_MS.to_vec(),
    };
    Subscribe {
        group,
        queue,
        start_at: start_at as i32,
        max_attempts,
        backoff: Some(Backoff {
            strategy: Some(Strategy::Customized(waits)),
        }),
        dead_letter_queue,
        deletions: 0,
        version: 1,
        fifo: false,
        paused: false,
        park: false,
    }
}

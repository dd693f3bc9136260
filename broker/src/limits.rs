//! Every bound of the broker, in one place, and how the bounds relate.

use std::time::Duration;

/// A message as it is delivered is smaller than this, bytes: what the SDKs' gRPC libraries receive unless told otherwise,
/// which not every SDK does (Node's).
pub const MAX_DELIVERED_BYTES: usize = 4 * 1024 * 1024;
/// What a delivered message may have beside its body, bytes: the bounds below, with what the broker adds.
pub const MAX_ENVELOPE_BYTES: usize = 64 * 1024;
/// Largest message body, bytes. Producers learn it from their settings.
pub const MAX_BODY_BYTES: usize = MAX_DELIVERED_BYTES - MAX_ENVELOPE_BYTES;
/// Messages in one send request.
pub const MAX_SEND_MESSAGES: usize = 128;
/// User properties of one message.
pub const MAX_PROPERTIES: usize = 128;
/// Bytes of all property keys and values, tag and keys of one message.
pub const MAX_PROPERTIES_BYTES: usize = 16 * 1024;
/// Keys of one message.
pub const MAX_KEYS: usize = 128;
/// Bytes of the host that a producer says a message was born on.
pub const MAX_BORN_HOST_BYTES: usize = 255;
/// Bytes of a trace context. W3C's has up to 55 and 512 for its state.
pub const MAX_TRACE_CONTEXT_BYTES: usize = 1024;
/// Bytes of a client id. The SDKs' have a host name and some numbers.
pub const MAX_CLIENT_ID_BYTES: usize = 512;
/// Bytes of what clients say of their language and version; of longer texts nothing is kept.
pub const MAX_AGENT_BYTES: usize = 64;
/// Bytes of a namespace from the metadata. With a name it is bounded as that is.
pub const MAX_NAMESPACE_BYTES: usize = MAX_TOPIC_NAME;
/// Bytes of a request that holds neither bodies nor lists of receipts. Some of these wait for seconds, with all they bring.
pub const MAX_SMALL_REQUEST_BYTES: usize = 16 * 1024;
/// Bytes of an acknowledge request.
pub const MAX_ACK_REQUEST_BYTES: usize = 512 * 1024;
/// Topics that the settings of one client name.
pub const MAX_SETTINGS_TOPICS: usize = 4096;
/// Bytes of the sentence that says why something is refused; it may repeat what was sent.
pub const MAX_REASON_BYTES: usize = 1024;
/// Of a text that is wrong so many characters are shown.
pub const MAX_SHOWN_CHARACTERS: usize = 64;
/// Last second that a timestamp of protobuf may have (the year 9999): some SDKs fail at a message with a later one.
pub const MAX_TIMESTAMP_SECONDS: i64 = 253_402_300_799;
/// Longest delay in a consumer group's backoff, and highest growth of it in percent.
pub const MAX_BACKOFF_MS: u64 = 30 * 86_400_000;
/// See [`MAX_BACKOFF_MS`].
pub const MAX_BACKOFF_PERCENT: u32 = 100_000;
/// Characters of a topic name a user may choose.
pub const MAX_TOPIC_NAME: usize = 127;
/// Characters of retry and dead-letter topic names.
pub const MAX_SYSTEM_TOPIC_NAME: usize = 255;
/// Characters of a consumer group name.
pub const MAX_GROUP_NAME: usize = 120;
/// A message group must be shorter than this many UTF-8 bytes.
pub const MAX_MESSAGE_GROUP_BYTES: usize = 64;
/// Bytes of a message id.
pub const MAX_MESSAGE_ID_BYTES: usize = 256;

/// Damaged records whose repair is tried before the next look at all of them.
pub const REPAIRS_AT_ONCE: usize = 64;

/// Messages in one receive answer.
pub const MAX_RECEIVE_BATCH: usize = 32;
/// Bytes of bodies in one receive answer (at least one message is always given).
pub const MAX_RECEIVE_BYTES: usize = 8 * 1024 * 1024;
/// New messages of a queue that one look for a filter goes through; nothing is applied meanwhile.
pub const FILTER_LOOKS_AT: usize = 256;
/// A receive looks through new messages of a queue for so long, or until it finds something; whoever comes next goes on.
pub const FILTER_LOOKS_FOR: Duration = Duration::from_millis(200);
/// While a condition is evaluated others have their turn so often, milliseconds.
pub const FILTER_RESTS_EVERY_MS: u64 = 2;
/// So many messages that a filter does not let through are worth an entry of the log, though nothing is delivered.
pub const PASS_OVER_AT: u64 = 1024;
/// Fewer are told to the log after so long, so that nobody takes them for something left to do.
pub const PASS_OVER_AFTER: Duration = Duration::from_secs(20);
/// A receive looks through at most so many messages of a queue.
pub const PASS_OVER_MOST: u64 = 16_384;
/// Places where consumer groups have looked in vain that a shard remembers.
pub const MAX_LOOKED: usize = 4_096;
/// Runs of messages remembered for one of them.
pub const MAX_LOOKED_RUNS: usize = 512;
/// Filter expressions that a node keeps compiled.
pub const MAX_FILTERS: usize = 1_024;
/// Bytes of messages read at once to evaluate a condition.
pub const FILTER_READ_BYTES: usize = 1024 * 1024;
/// Entries of the log read for that at once, each of which may be as large as any.
pub const FILTER_READ_ENTRIES: usize = 32;
/// Bytes of all compiled filter expressions that a node keeps or that its receives hold.
pub const MAX_FILTER_BYTES: usize = 64 * 1024 * 1024;
/// Receives of a node that read messages at the same time to evaluate a condition; others wait for their turn.
pub const MAX_FILTER_READS: usize = 8;
/// Messages that wait and are looked at for one page, unless whoever asks says how many.
pub const DELAYED_PAGE: u32 = 100;
/// And at most.
pub const MAX_DELAYED_PAGE: u32 = 256;
/// Dead letters or parked messages that one page shows, or one step of a redrive gives back, unless whoever asks says how many.
pub const LETTERS_PAGE: u32 = 100;
/// And at most.
pub const MAX_LETTERS_PAGE: u32 = 256;
/// Bytes in the log of the dead letters that one page shows; a single larger one is shown alone.
pub const MAX_LETTERS_BYTES: usize = 16 * 1024 * 1024;
/// Queues that one seek of an administrator moves at the same time.
pub const SEEK_AT_ONCE: usize = 16;
/// How long it may take to tell all shards that a consumer group is paused, or goes on.
pub const PAUSE_PATIENCE: Duration = Duration::from_secs(20);
/// How long a seek of a whole topic may take: queues that are not known to be done by then are told as such.
pub const SEEK_PATIENCE: Duration = Duration::from_secs(20);
/// Messages in one answer to a pull.
pub const MAX_PULL_BATCH: usize = MAX_RECEIVE_BATCH;
/// Bytes of messages in it (at least one is always given).
pub const MAX_PULL_BYTES: usize = MAX_RECEIVE_BYTES;
/// Pulls that may wait for messages on one node.
pub const MAX_WAITING_PULLS: usize = 5_000;
/// Pulls and pages of dead letters of a node that read messages at the same time; others wait for their turn.
pub const MAX_PULL_READS: usize = 8;
/// A pull that waits looks for itself this often: a lost hint then costs little.
pub const PULL_LOOKS_EVERY: Duration = Duration::from_secs(1);
/// It rests so long after a hint, so that it looks once for what comes together.
pub const PULL_REST: Duration = Duration::from_millis(2);
/// And the longer, the more wait: for each millisecond so many, which is how many look in one all together.
pub const PULLS_FOR_A_MILLISECOND: u64 = 4;
/// What an answer adds to a message as it is stored, at most as a rule, bytes; it is counted exactly when it is there.
pub const DELIVERED_OVERHEAD_BYTES: usize = 1024;
/// Bytes of answers that wait until one connection has read them, or another node: all answers of its receives. Over it
/// the next receive that finds messages is refused.
pub const MAX_UNREAD_BYTES_PER_READER: u64 = 32 * 1024 * 1024;
/// The same over all of them.
pub const MAX_UNREAD_BYTES: u64 = 256 * 1024 * 1024;
/// How often it is looked who reads nothing, while most of that is used.
pub const ASK_THE_STUCK_EVERY: Duration = Duration::from_secs(1);
/// Who reads less than this from one such look to the next, of as much or more, counts as reading nothing, bytes.
pub const SLOWEST_READ_BYTES: u64 = 64 * 1024;
/// Leases one consumer group may hold open on one queue.
pub const MAX_IN_FLIGHT_PER_QUEUE: usize = 16 * 1024;
/// Receives that may wait for messages on one node.
pub const MAX_WAITING_RECEIVES: usize = 20_000;
/// Times that another node has asked to be told of messages and was not told yet, over all consumer groups and topics.
pub const MAX_INTERESTS: usize = 40_000;
/// Rows of one figure that is shown by topic, consumer group or kind of client; what finds no place is one row more. Of what is
/// counted by shard, each shard has so many.
pub const MAX_TALLY_ROWS: usize = 10_000;
/// Pairs of a consumer group and a topic whose turns one node remembers.
pub const MAX_REMEMBERED_POLLS: usize = 40_000;
/// Hints that one call to another node carries.
pub const MAX_HINTS_PER_CALL: usize = 4_096;
/// Entries of one acknowledge request.
pub const MAX_ACK_ENTRIES: usize = 1024;

/// Shortest and longest time a receive may wait.
pub const MIN_POLL: Duration = Duration::from_millis(0);
/// See [`MIN_POLL`].
pub const MAX_POLL: Duration = Duration::from_secs(20);
/// What a receive waits when the client does not say.
pub const DEFAULT_POLL: Duration = Duration::from_secs(20);
/// An answer is on its way this long before the client's deadline.
pub const POLL_MARGIN: Duration = Duration::from_millis(1_000);
/// Bounds of an invisible duration that a receive asks for.
pub const MIN_INVISIBLE: Duration = Duration::from_secs(10);
/// See [`MIN_INVISIBLE`].
pub const MAX_INVISIBLE: Duration = Duration::from_secs(12 * 3600);
/// Lease of a push consumer, renewed by the server while the client lives and if its answer was written out. What was not
/// is delivered again well within a minute.
pub const AUTO_RENEW_LEASE_MS: u64 = 50_000;
/// A lease is renewed when less than this is left of it.
pub const RENEW_BEFORE_MS: u64 = 20_000;
/// How often leases are looked through for renewal.
pub const RENEW_EVERY_MS: u64 = 5_000;
/// Leases changed by one command that renews or ends them.
pub const RENEW_LIMIT: u32 = 1024;
/// Clients looked at in one go for what is due.
pub const HOLDERS_AT_ONCE: usize = 1024;
/// A lease is not renewed beyond this age.
pub const RENEW_AT_MOST: Duration = Duration::from_secs(3 * 3_600);
/// An answer was written out, if so much later its connection is still there.
pub const WRITTEN_AFTER_MS: u64 = 5_000;
/// And if the client was heard so much later, on the same connection: what came before may have been on its way already.
pub const WRITTEN_HEARD_AFTER_MS: u64 = 1_000;
/// An answer that left so shortly before the client's deadline came too late.
pub const ANSWER_MARGIN: Duration = Duration::from_millis(500);
/// How often nodes tell leaders which answers were written out.
pub const REPORT_WRITTEN_EVERY: Duration = Duration::from_secs(5);
/// How long they wait for the leader.
pub const REPORT_PATIENCE: Duration = Duration::from_secs(1);
/// Answers in one such report.
pub const MAX_ANSWERS_IN_REPORT: usize = 128;
/// Leases of answers that one node remembers.
pub const MAX_WRITTEN_LEASES: usize = 1 << 20;
/// An answer is forgotten after this: leases last longer than they should only while their shard has no leader.
pub const WRITTEN_FORGOTTEN_AFTER_MS: u64 = 600_000;
/// Less than this is left of a lease when its shard's state takes down that its answer was written out.
pub const MARK_WRITTEN_BEFORE_MS: u64 = 30_000;
/// A client that was silent for so long is gone. Some SDKs beat every 30 s only.
pub const CLIENT_SILENT_MS: u64 = 120_000;
/// Before a client that holds leases counts as gone, after so long a silence, other nodes are asked whether they heard of it.
pub const CLIENT_OVERDUE_MS: u64 = 60_000;
/// When a client says good-bye, others get what the server renewed for it so much later: what it sent before may still
/// arrive.
pub const DEPARTED_VISIBLE_AFTER_MS: u64 = 1_000;
/// A good-bye is remembered at least so long, however many clients there are: every shard led here has seen to it by then.
pub const DEPARTED_KEPT_MS: u64 = 5_000;
/// How often room is made among the clients when they are too many: each time all are looked at.
pub const CLIENTS_SWEPT_EVERY_MS: u64 = 1_000;
/// Clients remembered by one node that come from one host.
pub const MAX_CLIENTS_PER_HOST: usize = MAX_CLIENTS / 2;
/// Clients remembered by one node.
pub const MAX_CLIENTS: usize = 50_000;

/// Commands that wait in one lane of a shard's proposer.
pub const MAX_QUEUED_COMMANDS: usize = 16 * 1024;
/// Commands of the shard's own time that wait; more than its keeper and all other nodes ever have.
pub const MAX_QUEUED_TIME_COMMANDS: usize = 1024;
/// Bytes of messages that wait in one shard's proposer.
pub const MAX_QUEUED_SEND_BYTES: usize = 64 * 1024 * 1024;
/// Sends are refused while the first of those that wait has waited for so long, milliseconds: most clients would not wait
/// for what is queued behind it, and it would be stored for nobody.
pub const MAX_SEND_WAIT_MS: u64 = 1_500;
/// What is asked with a receipt handle is refused when the way to the leader has been full for so long.
pub const MAX_FULL_WAY: Duration = Duration::from_millis(MAX_SEND_WAIT_MS);
/// Bytes that wait in each of its other lanes.
pub const MAX_QUEUED_SMALL_BYTES: usize = 8 * 1024 * 1024;
/// Commands that one lane puts into an entry before the next lane has its turn, if that has any.
pub const TURN_COMMANDS: usize = 64;
/// The same in bytes; reached by the last command of a turn.
pub const TURN_BYTES: usize = 16 * 1024;
/// Bytes of one command; a larger one is refused.
pub const MAX_COMMAND_BYTES: usize = MAX_DELIVERED_BYTES + MAX_ENVELOPE_BYTES;
/// Bytes of commands that are one unit, as the messages of one request are. An entry that holds them is read as a whole for
/// any of its messages, so it is no larger than one of the largest message.
pub const MAX_BATCH_BYTES: usize = MAX_COMMAND_BYTES;
/// Commands that are one unit.
pub const MAX_BATCH_COMMANDS: usize = MAX_SEND_MESSAGES;
/// What an entry adds to each of its commands, and to all of them, at most, bytes.
const ENTRY_OVERHEAD: usize = 16;
/// Bytes of commands in one entry; a single larger command stands alone.
pub const MAX_ENTRY_BYTES: usize = 256 * 1024;
/// Commands in one entry.
pub const MAX_ENTRY_COMMANDS: usize = 4096;
/// While more than a few commands are on their way, the next entry is cut only when this many bytes wait.
pub const PIPELINE_BYTES: usize = 256 * 1024;
/// An entry is cut when other tasks have run this often without adding a command to it.
pub const FRUITLESS_YIELDS: u32 = 3;
/// While fewer commands than this are on their way, the next entry is cut at once.
pub const FEW_COMMANDS_IN_FLIGHT: usize = 8;
/// Entries of one shard that may be on their way to a quorum; and one more without sends.
pub const MAX_ENTRIES_IN_FLIGHT: usize = 4;
/// While so many bytes of one shard are on their way, the next entry has no sends: what is on its way is written, on
/// every replica, before what comes later, so this is how long an acknowledgement waits for the sends before it.
pub const MAX_BYTES_IN_FLIGHT: usize = 256 * 1024;

/// How far ahead a message may be sent unless it is configured.
pub const MAX_DELAY: Duration = Duration::from_secs(40 * 86_400);
/// Messages that one command gives their places, because they are due.
pub const FIRE_LIMIT: u32 = 1024;
/// A transaction is checked back for the first time so long after its half message was stored, unless that says otherwise, and
/// then so often again.
pub const FIRST_CHECK: Duration = Duration::from_secs(6);
/// See [`FIRST_CHECK`].
pub const CHECK_EVERY: Duration = Duration::from_secs(30);
/// A transaction is checked back so often at most; then it waits for its end.
pub const MAX_CHECKS: u32 = 15;
/// What a half message may ask for instead of [`FIRST_CHECK`].
pub const MAX_FIRST_CHECK: Duration = Duration::from_secs(3_600);
/// Transactions of a shard that are checked back together. The next are, once producers were asked about all of these.
pub const CHECKS_AT_ONCE: u32 = 32;
/// And after a rest, so that no producer is asked without a pause.
pub const CHECKS_REST: Duration = Duration::from_millis(100);
/// A node that has not said by then whether a producer there was asked is passed over, and so is one whose producers read nothing for
/// so long.
pub const ASK_PATIENCE: Duration = Duration::from_millis(500);
/// Questions that one producer has not read yet.
pub const MAX_QUESTIONS_PER_PRODUCER: usize = 32;
/// Bytes of messages in all questions of a node that were not read yet.
pub const MAX_QUESTION_BYTES: usize = 64 * 1024 * 1024;
/// The same of one producer, however little it reads: the largest message, with its properties.
pub const MAX_QUESTION_BYTES_PER_PRODUCER: usize = MAX_QUESTION_BYTES / 12;
/// Topics that a producer has sent to and is asked about, whatever it says that it sends to: the last ones.
pub const MAX_SENT_TOPICS_PER_PRODUCER: usize = 64;
/// Streams of one client that learn what it sends to: the last ones.
pub const STREAMS_OF_A_CLIENT: usize = 16;
/// Topics under which one producer is found; of what it sends to others it is asked all the same, once it has sent.
pub const MAX_TOPICS_PER_PRODUCER: usize = 256;
/// Topics of all producers of a node together.
pub const MAX_PRODUCER_TOPICS: usize = 65_536;
/// Expiries in one tick.
pub const TICK_LIMIT: u32 = 1024;
/// Messages forgotten by one step of retention, which is under way alone in its shard.
pub const TRIM_LIMIT: u32 = 4096;
/// Trim commands of one step.
pub const TRIM_AT_ONCE: usize = 256;
/// Messages copied forward by one step of retention.
pub const COPY_COMMANDS_AT_ONCE: usize = 4096;
/// Of a consumer group's dead letters, the latest ones that are looked at for one that an earlier try of a request may have made.
pub const DEAD_LETTERS_LOOKED_AT: u64 = 256;
/// Bytes copied forward by one step; a single larger message stands alone.
pub const COPY_BYTES_AT_ONCE: usize = 4 * 1024 * 1024;
/// Of them, those that are read at a time, each with the whole entry it is in.
pub const COPY_READS_AT_ONCE: usize = 64;
/// Rows of deleted topics and consumer groups removed by one step: what waits for the shard waits for one step at most.
pub const DROP_LIMIT: u32 = 2048;
/// Drop commands of one step.
pub const DROP_AT_ONCE: usize = 256;
/// After a step its shard rests for so many times what the step took.
pub const DROP_REST: u32 = 2;
/// But no longer than this.
pub const DROP_REST_AT_MOST: Duration = Duration::from_secs(2);
/// Time between two looks for what is to be dropped.
pub const DROP_EVERY: Duration = Duration::from_secs(1);
/// Topics, and consumer groups, of a shard that one look compares with the catalogue.
pub const SWEEP_AT_ONCE: usize = 256;
/// Time between two looks for what can be forgotten.
pub const FORGET_EVERY: Duration = Duration::from_secs(1);

/// Longest a request waits for a leader while one is being elected.
pub const LEADER_WAIT: Duration = Duration::from_millis(2_500);
/// What a request without a deadline may take.
pub const DEFAULT_REQUEST: Duration = Duration::from_secs(3);
/// What any request but a receive may take, whatever its client would wait for: what it holds is held so long at most.
pub const MAX_REQUEST: Duration = Duration::from_secs(30);
/// Left over for the way back when a request is forwarded or repeated.
pub const REPLY_MARGIN: Duration = Duration::from_millis(200);

/// Attempts a consumer group has unless it says otherwise: one and sixteen retries.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 17;
/// Highest number of attempts of a consumer group.
pub const MAX_MAX_ATTEMPTS: u32 = 1000;
/// RocketMQ's delays between attempts, in milliseconds.
pub const DEFAULT_BACKOFF_MS: [u64; 18] = [
    1_000, 5_000, 10_000, 30_000, 60_000, 120_000, 180_000, 240_000, 300_000, 360_000, 420_000, 480_000,
    540_000, 600_000, 1_200_000, 1_800_000, 3_600_000, 7_200_000,
];

/// Bounds that a node may be given smaller than they are above, so that little is enough to reach them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// [`MAX_IN_FLIGHT_PER_QUEUE`].
    pub in_flight_per_queue: usize,
    /// [`MAX_WAITING_RECEIVES`].
    pub waiting_receives: usize,
    /// [`MAX_QUEUED_COMMANDS`], of those that clients ask for.
    pub queued_commands: usize,
    /// [`MAX_QUEUED_SEND_BYTES`]; one send is taken however large it is.
    pub queued_send_bytes: usize,
    /// [`MAX_ENTRY_COMMANDS`].
    pub entry_commands: usize,
    /// [`TICK_LIMIT`].
    pub tick: u32,
    /// [`FIRE_LIMIT`].
    pub fire: u32,
    /// [`TRIM_LIMIT`].
    pub trim: u32,
    /// [`COPY_COMMANDS_AT_ONCE`].
    pub copy_commands: usize,
    /// [`DROP_LIMIT`], of what a seek ends.
    pub seek: u32,
    /// [`FILTER_LOOKS_AT`].
    pub filter_page: usize,
    /// [`PASS_OVER_AT`].
    pub pass_over_at: u64,
    /// [`PASS_OVER_MOST`].
    pub pass_over_most: u64,
    /// [`PASS_OVER_AFTER`], milliseconds.
    pub pass_over_after_ms: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            in_flight_per_queue: MAX_IN_FLIGHT_PER_QUEUE,
            waiting_receives: MAX_WAITING_RECEIVES,
            queued_commands: MAX_QUEUED_COMMANDS,
            queued_send_bytes: MAX_QUEUED_SEND_BYTES,
            entry_commands: MAX_ENTRY_COMMANDS,
            tick: TICK_LIMIT,
            fire: FIRE_LIMIT,
            trim: TRIM_LIMIT,
            copy_commands: COPY_COMMANDS_AT_ONCE,
            seek: DROP_LIMIT,
            filter_page: FILTER_LOOKS_AT,
            pass_over_at: PASS_OVER_AT,
            pass_over_most: PASS_OVER_MOST,
            pass_over_after_ms: PASS_OVER_AFTER.as_millis() as u64,
        }
    }
}

const _: () = assert!(MAX_BODY_BYTES <= MAX_RECEIVE_BYTES);
const _: () =
    assert!(MAX_PROPERTIES_BYTES + (MAX_PROPERTIES + MAX_KEYS) * ENTRY_OVERHEAD <= MAX_ENVELOPE_BYTES / 2);
const _: () = assert!(
    MAX_MESSAGE_ID_BYTES * 2 + MAX_BORN_HOST_BYTES + MAX_TRACE_CONTEXT_BYTES + 8 * MAX_SYSTEM_TOPIC_NAME
        <= MAX_ENVELOPE_BYTES / 4
);
// What another node receives for a client fits a frame: all bodies with their envelopes, or a request with its caller.
const _: () = assert!(
    MAX_RECEIVE_BYTES + MAX_RECEIVE_BATCH * MAX_ENVELOPE_BYTES + MAX_DELIVERED_BYTES
        <= crate::peer::limits::MAX_FRAME_BYTES
);
// An answer fits what one reader may have, and a look at another node the part of it that is spare.
const _: () = assert!(
    (MAX_RECEIVE_BYTES + MAX_RECEIVE_BATCH * MAX_ENVELOPE_BYTES + MAX_DELIVERED_BYTES) as u64
        <= MAX_UNREAD_BYTES_PER_READER
);
const _: () = assert!(2 * MAX_DELIVERED_BYTES as u64 <= MAX_UNREAD_BYTES_PER_READER);
const _: () = assert!(4 * MAX_UNREAD_BYTES_PER_READER <= MAX_UNREAD_BYTES);
const _: () = assert!(
    MAX_ACK_ENTRIES * (MAX_MESSAGE_ID_BYTES + 4 * ENTRY_OVERHEAD) + MAX_SMALL_REQUEST_BYTES
        <= MAX_ACK_REQUEST_BYTES
);
/// What may be proposed fits an entry, and an entry fits a record.
const LARGEST_ENTRY: usize = MAX_BATCH_BYTES + MAX_ENTRY_BYTES + (MAX_ENTRY_COMMANDS + 1) * ENTRY_OVERHEAD;
const _: () = assert!(LARGEST_ENTRY <= queue_core::limits::MAX_ENTRY_PAYLOAD);
const _: () = assert!(queue_core::limits::MAX_ENTRY_PAYLOAD == raft_store::limits::MAX_PAYLOAD_BYTES);
const _: () = assert!(MAX_COMMAND_BYTES <= MAX_BATCH_BYTES && MAX_BATCH_COMMANDS <= MAX_ENTRY_COMMANDS);
const _: () = assert!(MAX_BATCH_BYTES < MAX_QUEUED_SEND_BYTES);
const _: () = assert!(MAX_COMMAND_BYTES < MAX_QUEUED_SMALL_BYTES);
const _: () = assert!(PIPELINE_BYTES <= MAX_ENTRY_BYTES);
const _: () = assert!(DROP_LIMIT <= queue_core::limits::MAX_FORGET);
const _: () = assert!(TRIM_LIMIT <= queue_core::limits::MAX_FORGET);
const _: () = assert!(FIRE_LIMIT as usize <= queue_core::limits::MAX_FIRE);
const _: () = assert!(TICK_LIMIT as usize <= queue_core::limits::MAX_EXPIRIES);
// A look ends with the page in which it reaches its bound.
const _: () = assert!(PASS_OVER_MOST + FILTER_LOOKS_AT as u64 <= queue_core::limits::MAX_PASSED_OVER);
// What is parked takes no room from what a leader gives out, and what is given back leaves half of it.
const _: () =
    assert!(queue_core::limits::MAX_PARKED + MAX_IN_FLIGHT_PER_QUEUE <= queue_core::limits::MAX_IN_FLIGHT);
const _: () = assert!(2 * queue_core::limits::MAX_GIVEN_BACK <= MAX_IN_FLIGHT_PER_QUEUE);
const _: () = assert!(DROP_AT_ONCE <= MAX_ENTRY_COMMANDS);
const _: () = assert!(MAX_ENTRY_COMMANDS <= MAX_QUEUED_COMMANDS);
// Four lanes take turns, and a full entry has several turns of each.
const _: () = assert!(16 * TURN_COMMANDS <= MAX_ENTRY_COMMANDS && 16 * TURN_BYTES <= MAX_ENTRY_BYTES);
const _: () = assert!(RENEW_BEFORE_MS > 2 * RENEW_EVERY_MS);
const _: () = assert!(AUTO_RENEW_LEASE_MS > 2 * RENEW_BEFORE_MS);
// Three reports fail, and the lease is marked all the same.
const _: () = assert!(MARK_WRITTEN_BEFORE_MS > 4 * REPORT_WRITTEN_EVERY.as_millis() as u64);
const _: () = assert!(AUTO_RENEW_LEASE_MS > MARK_WRITTEN_BEFORE_MS);
const _: () = assert!(WRITTEN_HEARD_AFTER_MS < WRITTEN_AFTER_MS);
// Whoever is asked about in vain is asked about again before it counts as gone.
const _: () = assert!(CLIENT_OVERDUE_MS + 2 * RENEW_BEFORE_MS <= CLIENT_SILENT_MS);
// A send waits for others for no longer than half of what its client waits for it.
const _: () = assert!(2 * MAX_SEND_WAIT_MS as u128 <= DEFAULT_REQUEST.as_millis());

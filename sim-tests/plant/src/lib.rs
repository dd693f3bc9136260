//! Bugs on purpose: the simulator is believed as far as it finds them.
//!
//! Each is of a kind that real systems have shipped, and small: in calm weather the cluster works with it. A product file
//! has one line for each, a [`plant!`], where the bug stands. Under `cfg(madsim)` the line asks whether its bug is the
//! active one; in every other build it is nothing, or the plain value, and this crate holds only the macro. What an effect
//! needs beyond its line is in `bodies/`, which product crates mount as private modules in the simulator alone. One bug at
//! most is active in a process, from its start on.

/// Plants a bug. `plant!(Bug => effect)` is a statement that the bug adds, `plant!(Bug => wrong, else right)` a value that it
/// gets wrong. On one line, as `scripts/check-plants.sh` demands.
#[cfg(madsim)]
#[macro_export]
macro_rules! plant {
    ($bug:ident => $wrong:expr, else $right:expr) => {
        if $crate::is($crate::Bug::$bug) {
            $wrong
        } else {
            $right
        }
    };
    ($bug:ident => $effect:expr) => {
        if $crate::is($crate::Bug::$bug) {
            $effect;
        }
    };
}

/// A place where the simulator plants a bug: nothing, or the value after `else`.
#[cfg(not(madsim))]
#[macro_export]
macro_rules! plant {
    // A block of its own: a plain `let value = value` would be redundant to clippy.
    ($bug:ident => $wrong:expr, else $right:expr) => {{ $right }};
    ($bug:ident => $effect:expr) => {};
}

#[cfg(madsim)]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// No bug is active.
#[cfg(madsim)]
const NONE: usize = usize::MAX;

#[cfg(madsim)]
static ACTIVE: AtomicUsize = AtomicUsize::new(NONE);

/// By bug: whether the line that it stands in was reached.
#[cfg(madsim)]
static REACHED: [AtomicBool; ALL.len()] = [const { AtomicBool::new(false) }; ALL.len()];

#[cfg(madsim)]
macro_rules! bugs {
    ($($bug:ident, $name:literal, $kind:literal, $what:literal;)+) => {
        /// The planted bugs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $(#[doc = $what] $bug,)+
        }

        /// All of them, in the order of the layers they are planted in.
        pub const ALL: &[Bug] = &[$(Bug::$bug,)+];

        impl Bug {
            /// What it is called on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Bug::$bug => $name,)+ }
            }

            /// What the planted code does.
            #[must_use]
            pub fn what(self) -> &'static str {
                match self { $(Bug::$bug => $what,)+ }
            }

            /// The kind of bug that real systems shipped.
            #[must_use]
            pub fn kind(self) -> &'static str {
                match self { $(Bug::$bug => $kind,)+ }
            }
        }
    };
}

#[cfg(madsim)]
bugs! {
    // The node's log.
    SyncDropped, "sync-dropped", "write acknowledged from the page cache",
        "the log reports a batch as durable without a sync";
    AnsweredBeforeSync, "answered-before-sync", "replica counts an entry that it has not synced",
        "an append is reported to Raft as stored as soon as it is queued";
    DirectoryNotSynced, "directory-not-synced", "file synced, its name not",
        "a new segment's directory entry is not synced";
    FailedSyncRetried, "failed-sync-retried", "a failed fsync is tried again and believed",
        "a sync that failed is repeated, and its success taken at face value";
    TornTailAsCorruption, "torn-tail-as-corruption", "a crash in the middle of a write makes a node unusable",
        "a torn tail that was never acknowledged counts as corruption";
    CorruptionAsTornTail, "corruption-as-torn-tail", "corruption in the middle silently ends the log",
        "a damaged batch ends the log although later ones prove that it was synced";
    UncommittedTailDropped, "uncommitted-tail-dropped", "restart truncates entries that were acknowledged",
        "what is not known to be committed is cut off at the start";
    VoteNotSynced, "vote-not-synced", "vote answered before it is durable",
        "a vote is queued to be written and answered at once";
    VoteNotSaved, "vote-not-saved", "amnesia after a vote",
        "only a replica's first vote is written, later ones stay in memory";
    VoteLostAtRoll, "vote-lost-at-roll", "log rotation loses what must outlive a file",
        "the head of a new segment does not repeat the votes";
    ReadWithoutChecksum, "read-without-checksum", "checksum verified on recovery, not on the read path",
        "an entry that is read from the disk is believed without its checksum";
    CutSegmentBlamesTheFirst, "cut-segment-blames-the-first", "the error is put down to the start of the range that was read",
        "of entries that are read together the first counts as damaged where their file ends too early";
    SidecarRepeatsCuts, "sidecar-repeats-cuts", "delete marker applied again to later data at recovery",
        "the cut of a truncation stands in the sidecars of all later segments, too";
    SegmentEndNotSynced, "segment-end-not-synced", "metadata points past what was synced",
        "the head of a new segment vouches for an end of the one before that was not synced";
    NewSegmentNotSynced, "new-segment-not-synced", "name synced, its content not",
        "a new segment gets its name before its head is synced";
    PageCacheBelievedAtRestart, "page-cache-believed-at-restart", "restart counts pages whose sync had failed",
        "a start syncs the tail that it has read and does not write it again";
    StuckAfterAFullDisk, "stuck-after-a-full-disk", "a full disk sets a latch that nothing clears",
        "a log that ran out of segments does not go on when there is room again";
    UnreadableSpareKept, "unreadable-spare-kept", "restart that meets what it stopped for, again and again",
        "a spare segment is kept although a segment cannot begin in it";
    LogWithoutItsBeginning, "log-without-its-beginning", "a missing oldest log file goes unnoticed",
        "a shard's log may begin with any entry, whether those before were given up or not";
    AnswerBeforeBatchWritten, "answer-before-batch-written", "the answer overtakes the bookkeeping it rests on",
        "those who wait for a batch are told before the log knows where its records are";

    // Raft around openraft.
    LostAnswerCounts, "lost-answer-counts", "acknowledged before a quorum",
        "an append whose answer was lost counts as stored by that follower";
    ElectionWithoutLogCheck, "election-without-log-check", "leader that lacks committed entries",
        "a voter does not compare the candidate's log with its own";
    AnswersForAnother, "answers-for-another", "two members with one identity",
        "a replica takes messages for an earlier incarnation of its node";
    WipedReplicaVotes, "wiped-replica-votes", "member rejoins with an empty disk under its old identity",
        "a node that lost its directory goes on under its old incarnation";
    OldReplicaStays, "old-replica-stays", "removed member is still counted",
        "the replica of a lost directory stays a voter beside its successor";
    WrongReplicaRemoved, "wrong-replica-removed", "membership change removes the wrong member",
        "the new replica of a node takes the place of another node's replica";
    JointChangeLeftHalfDone, "joint-change-left-half-done", "joint change cannot be finished by the next leader",
        "a joint change is not finished as it was begun, but turned to what is wanted by now";
    StaleLearnersStay, "stale-learners-stay", "leftover of a replaced member is never removed",
        "learners of a directory that was replaced before they became voters stay for good";
    IncarnationReused, "incarnation-reused", "member with an empty disk gets its old identity back",
        "a node with a new directory is registered under the incarnation of the old one";
    LateDirectoryTakesThePlace, "late-directory-takes-the-place", "join that arrives late evicts the member that joined since",
        "a new directory is registered for a node that has another new one meanwhile";
    OlderDirectoryAccepted, "older-directory-accepted", "restored backup rejoins and votes again",
        "whether a directory has all that it had is asked of the catalogue alone, which lags";
    OldEmptyDirectoryWaits, "old-empty-directory-waits", "whoever is of no cluster believes nobody who refuses it",
        "a node whose directory was put back to before it was of a cluster waits for ever";
    AnotherClustersNodeAccepted, "another-clusters-node-accepted", "two clusters talk to each other by a wrong address",
        "a node does not compare the cluster of another one with its own";
    SwappedDirectoryAccepted, "swapped-directory-accepted", "volumes of two nodes are swapped, and both start",
        "a node starts on the data directory of another node";
    IdentityWithoutChecksum, "identity-without-checksum", "small files are thought not to rot",
        "the file that names node and cluster is believed without its checksum";
    ShutdownWithoutHandOver, "shutdown-without-hand-over", "orderly stop that waits for an election",
        "a node that stops does not hand its leaderships over";

    // The state under the log.
    AppliedBeforeSync, "applied-before-sync", "state ahead of its own log after a crash",
        "a committed entry is applied before this node has synced it";
    AppliedSavedFirst, "applied-saved-first", "applied index and state are not saved atomically",
        "the applied index is written in a batch before that of the rows";
    AppliedSavedRarely, "applied-saved-rarely", "entries are applied twice after a restart",
        "the applied index is written with every eighth batch only";
    LocalTimeInState, "local-time-in-state", "replica state depends on something local",
        "an entry is applied with this node's time instead of the entry's";
    PurgedBeforeFlush, "purged-before-flush", "log truncated past the last checkpoint",
        "log entries are given up before the state that has them is flushed";
    FlushedAsOfAfter, "flushed-as-of-after", "position read after the checkpoint instead of before it",
        "what was applied while a flush ran counts as flushed";
    FlushToldBeforeItIsDone, "flush-told-before-it-is-done", "checkpoint recorded before it is complete",
        "the state counts as flushed from the moment the flush begins";
    ShutdownWithoutFlush, "shutdown-without-flush", "orderly stop that leaves all to recovery",
        "a store is closed without flushing the state";
    OrderlyStopIsAnError, "orderly-stop-is-an-error", "an operator is called for a planned restart",
        "a store that is closed says so as one that has failed";
    AnothersDamageIsAnError, "anothers-damage-is-an-error", "a healthy node calls for an operator because of a peer's disk",
        "a node that is asked for a record another has lost logs an ERROR of its own";
    StateOlderThanPurgeAccepted, "state-older-than-purge-accepted", "start with a hole between checkpoint and log",
        "a state that is older than the log reaches back is taken as it is";
    EngineFailureAsDamage, "engine-failure-as-damage", "passing I/O error taken for corruption",
        "a state engine that fails counts as damaged data";
    NewerReleaseIgnored, "newer-release-ignored", "downgrade reads a format it does not know",
        "the version of the directory's identity is not looked at";

    // Snapshots.
    SnapshotWithoutLeases, "snapshot-without-leases", "snapshot leaves a table out",
        "what is in flight is not part of a snapshot";
    SnapshotWithoutDedup, "snapshot-without-dedup", "snapshot leaves a table out",
        "the dedup window is not part of a snapshot";
    SnapshotClaimsMore, "snapshot-claims-more", "snapshot older than its index",
        "a snapshot's index is read when the file is written, its state before";
    SnapshotWithoutMessages, "snapshot-without-messages", "snapshot refers to data that it does not bring",
        "the log records that the state refers to are not part of a snapshot";
    InstallNoteNotFlushed, "install-note-not-flushed", "install of a snapshot is not atomic",
        "the log is cut to a snapshot before the note of its install is durable";
    StageOfAnotherSnapshotKept, "stage-of-another-snapshot-kept", "leftovers of an aborted snapshot mixed into the next",
        "what was staged of one snapshot stays under the rows of the next";
    OwnTailTakenForTheSnapshots, "own-tail-taken-for-the-snapshots", "a range is known by its index, whatever its term",
        "entries that were never committed count as records of a snapshot, and are not asked for";

    // Retention.
    SegmentRecycledEarly, "segment-recycled-early", "file deleted while something in it is alive",
        "a segment is given back without asking the state whether it is needed";
    DeadLettersNotKept, "dead-letters-not-kept", "second reference to data is not counted",
        "the search for the oldest live entry overlooks dead letters";
    UnappliedIsUnneeded, "unapplied-is-unneeded", "garbage collection races with what is about to refer to it",
        "entries that are in the log and not yet in the state are given up as if nothing referred to them";
    TrimForgetsLeased, "trim-forgets-leased", "retention deletes what a consumer works on",
        "trimming deletes the places of leased messages too";
    TrimOneTooMany, "trim-one-too-many", "retention off by one",
        "trimming forgets one message more than it was told to";
    CopyMakesYoung, "copy-makes-young", "compaction resets a timestamp, and nothing ever expires",
        "a message that is copied forward counts as stored just now";
    TrimmedPositionNotSaved, "trimmed-position-not-saved", "memory updated, write-through forgotten on one path",
        "trimming moves a slow consumer group on in memory only";
    RetentionHalved, "retention-halved", "retention in another unit than it was set in",
        "messages are too old after half the time they are to be kept";
    RetentionNeverByAge, "retention-never-by-age", "TTL that is never enforced",
        "no message is forgotten for its age";
    RetentionForgetsDeadLettersForRoom, "retention-forgets-dead-letters-for-room", "garbage collection of what nobody has handled",
        "dead letters are trimmed for room, as any other message";
    TooManyIsEverything, "too-many-is-everything", "a bound that is taken for what lies beyond it",
        "as soon as the log is looked through, all of it counts as beyond its bound";
    OthersNeedsIgnored, "others-needs-ignored", "a quota that only the leader's own disk counts for",
        "a leader forgets what its own node's log has too much of, whatever its followers' logs have";
    CopiesForAgeWithoutEnd, "copies-for-age-without-end", "a copy that is always worth it, for a message that outlives all others",
        "what must stay is copied whenever all around it is too old, however little that gives back";
    CopiesAreCopiedAgain, "copies-are-copied-again", "compaction that makes the log it compacts larger, and so goes on",
        "what was copied is copied once more although nothing was given back meanwhile";
    CopiesForRoomWithoutEnd, "copies-for-room-without-end", "a full log that is compacted again and again although nothing in it is over",
        "what must stay is copied whenever the log is too large, however little that gives back";

    // The queue core.
    LeaseEndedEarly, "lease-ended-early", "lease deadline ignored",
        "a tick ends leases three seconds before their deadline";
    LeasesForgottenAtRestart, "leases-forgotten-at-restart", "leases live in memory only",
        "after a restart leased messages can be delivered at once";
    DeadlinesForgottenAtRestart, "deadlines-forgotten-at-restart", "timer not rebuilt after a restart",
        "after a restart no lease of before ever ends by itself";
    RecallLeavesTheMessage, "recall-leaves-the-message", "cancelled job that its timer starts all the same",
        "a recall is answered, and the message waits on";
    TimersForgottenAtRestart, "timers-forgotten-at-restart", "timers in memory that nobody sets again after a restart",
        "what is due first is not looked for when the state is loaded";
    FiredUnknownToItsSender, "fired-unknown-to-its-sender", "an index that is not updated when its object moves",
        "a repeated send of a message that has come is told that it waits still";
    StaleReceiptAccepted, "stale-receipt-accepted", "expired receipt is accepted after the redelivery",
        "an acknowledgement is accepted by offset, whoever holds the lease";
    AttemptNotCounted, "attempt-not-counted", "redelivery not counted",
        "a redelivery has the attempt of the delivery before";
    AttemptCountedTwice, "attempt-counted-twice", "redelivery counted twice",
        "a redelivery counts as two attempts";
    MaxAttemptsOffByOne, "max-attempts-off-by-one", "one attempt more than allowed",
        "a message is given up after one attempt too many";
    HideIgnored, "hide-ignored", "lease extension answered and not done",
        "a longer invisible time gives a new receipt and keeps the old deadline";
    DeadLetterTwice, "dead-letter-twice", "dead letter duplicated",
        "a message that is given up is put into the dead-letter queue twice";
    DeadLetterLost, "dead-letter-lost", "message removed before it is stored elsewhere",
        "a message that is given up does not come into the dead-letter queue";
    HistoryEndsWithTheLastLife, "history-ends-with-the-last-life", "a log of what happened that is overwritten by its last line",
        "a dead letter tells how its last attempt ended, and nothing of those before";
    RedriveNotMarked, "redrive-not-marked", "a request that is carried out again when it is repeated",
        "a dead letter that was given back is not marked, and can be given back again";
    RedriveMarksOnly, "redrive-marks-only", "marked as done before it is done",
        "a dead letter is marked as given back, and nothing comes of it";
    RedriveKeepsItsAttempts, "redrive-keeps-its-attempts", "a retried job that starts with its retries used up",
        "a message that is given back has used up its attempts";
    ParkedIsDelivered, "parked-is-delivered", "a state that one of the places that ask for it does not know",
        "a message that stopped its message group is delivered as if it waited";
    ParkingForgottenAtRestart, "parking-forgotten-at-restart", "a flag that is written and not read",
        "a replica that starts takes parked messages for such as wait";
    LateDecisionCounts, "late-decision-counts", "an operator's decision carried out on something else than he saw",
        "a decision on a parked message is carried out although it was released and is parked again";
    ReleasedWithoutAttempts, "released-without-attempts", "a counter that is not set back with the rest",
        "a parked message that is released has used up its attempts";
    QueueEndSavedRarely, "queue-end-saved-rarely", "offset used again after a restart",
        "a queue's end is written with every fourth message only";
    OrderIgnored, "order-ignored", "ordered consumers that overtake each other",
        "messages of a message group are delivered whatever is in flight before them";
    BlockedNotSaved, "blocked-not-saved", "memory updated, write-through forgotten on one path",
        "what was passed over because its message group is locked is noted in memory only";
    NextInOrderSkipped, "next-in-order-skipped", "a list that loses its head when it is cut",
        "when some of what was passed over of a message group is delivered, the next of it is passed over for good";
    RepeatCountsAnAttempt, "repeat-counts-an-attempt", "a retried request that counts as another",
        "what a repeated receive gets again counts as delivered once more";
    RepeatVoidsTheReceipt, "repeat-voids-the-receipt", "a retried request that undoes the first",
        "what a repeated receive gets again has another receipt, and the first counts no more";
    CursorNotSaved, "cursor-not-saved", "consumer position lost at a restart",
        "a delivery does not write the consumer group's position";
    FilteredNotCounted, "filtered-not-counted", "counts that no longer add up once there is a new way to be done",
        "what a filter passes over is counted nowhere";
    FilteredPositionNotSaved, "filtered-position-not-saved", "memory updated, write-through forgotten on one path",
        "a consumer group that is only moved past what it does not want is moved in memory only";
    LateSeekCounts, "late-seek-counts", "an administrative request that comes twice is carried out twice",
        "a seek is carried out whatever was done since it was decided";
    SoughtNotCounted, "sought-not-counted", "counts that no longer add up once there is a new way to be done",
        "what was in flight when a seek began is counted nowhere until the seek is done";
    DateFoundOneOff, "date-found-one-off", "a search by halving that is off by one",
        "a date is found at the message before the first that has it or a later one";
    PauseForgottenAtRestart, "pause-forgotten-at-restart", "a flag that lives in memory only",
        "a replica that starts has forgotten which consumer groups are paused";
    PauseInTheCatalogueOnly, "pause-in-the-catalogue-only", "a switch that is read where it may not have arrived yet",
        "a pause is answered before the shards have heard of it";
    OffsetAskedOfNobody, "offset-asked-of-nobody", "linearizable read from the leader's own state",
        "where a consumer group is, or a queue ends, is said by whoever believes to lead";
    AnyOffsetIsTaken, "any-offset-is-taken", "a position beyond the end that is taken, and then means another",
        "a consumer group may be put to an offset that its queue does not have";
    PullGoesOnAtTheEnd, "pull-goes-on-at-the-end", "end of the log taken for the end of the answer",
        "who pulls is told to go on at the queue's end, whatever came";
    DatesGoBack, "dates-go-back", "a list searched by halving that is not in order",
        "a message is dated by the wall clock alone, be it before its predecessor";
    LostAnswersRenewed, "lost-answers-renewed", "a delivery whose answer was lost is leased for as long as its client lives",
        "the server renews leases whether their answers were written out or not";
    DedupIgnored, "dedup-ignored", "retried send stored twice",
        "the dedup window is kept and not looked at";
    DedupForgottenAtRestart, "dedup-forgotten-at-restart", "dedup window lost at a restart",
        "the dedup window is not loaded when the state is";
    DedupWindowHalf, "dedup-window-half", "a window that is shorter than clients were told",
        "what was sent a minute ago counts as out of the window";
    DedupWindowNeverEnds, "dedup-window-never-ends", "expiry that depends on traffic that may not come",
        "an id is in the window for as long as it is remembered";
    LeaseTwiceAsLong, "lease-twice-as-long", "a timeout counted twice on its way",
        "a lease ends later by its own length";
    RenewalWithoutLimit, "renewal-without-limit", "session kept alive for ever by its keep-alive",
        "leases are renewed however long they have been held";
    ShorterTimeIgnored, "shorter-time-ignored", "an extension may only extend",
        "an invisible time that ends before the lease does is not honoured";
    ChangeKeepsTheOldReceipt, "change-keeps-the-old-receipt", "lock token not rotated at renewal",
        "a changed lease keeps its old receipt, and the new one is worth nothing";
    NackCountsNoAttempt, "nack-counts-no-attempt", "a negative acknowledgement resets the counter",
        "a message given back for a retry gets its attempt back";
    GivenUpOneAttemptEarly, "given-up-one-attempt-early", "maximum of deliveries taken for one of retries",
        "a message whose lease ended is given up after one attempt too few";
    BackoffListOneStepAhead, "backoff-list-one-step-ahead", "delay table counted from 1 and indexed from 0",
        "a failed attempt waits for as long as the one after it should";
    ExponentialBackoffNeverGrows, "exponential-backoff-never-grows", "backoff capped at its first step",
        "every attempt waits for as long as the first";
    ChosenTimePlusBackoff, "chosen-time-plus-backoff", "two delays added up",
        "a lease that ends at the time its consumer chose waits for the backoff, too";
    RulesLeftBehind, "rules-left-behind", "leftover row of a deleted object makes the next start fail",
        "a dropped subscription leaves the row of its rules";
    DeletesWhoeverBearsTheName, "deletes-whoever-bears-the-name", "late request hits a successor",
        "a deletion of a topic says its name only";
    DroppedGroupBeginsAnew, "dropped-group-begins-anew", "deletion undone by a node that has not heard of it",
        "a leader whose catalogue is behind lets a dropped consumer group begin once more";
    OrphanedDeadLettersDeleted, "orphaned-dead-letters-deleted", "emptiness judged by one of two indexes",
        "dead letters of a deleted consumer group count as none while nobody holds any";

    // The broker.
    MetaLeaderAsksNobody, "meta-leader-asks-nobody", "linearizable read from the leader's own state",
        "the catalogue's leader says that something does not exist without asking whether it still leads";
    UnknownOutcomeAsNotDone, "unknown-outcome-as-not-done", "indeterminate outcome taken for a failure, and tried again",
        "a change of the catalogue whose answer was lost is asked for once more as if nobody had";
    LeasesReleasedAtFailover, "leases-released-at-failover", "unacknowledged deliveries forgotten by a new leader",
        "a new leader ends all leases that its predecessor gave";
    WallClockDeadlines, "wall-clock-deadlines", "lease measured by a clock that jumps",
        "a shard's time is the wall clock of its leader";
    DeposedLeaderDelivers, "deposed-leader-delivers", "read from a deposed leader",
        "a delivery whose commit failed with the leadership is handed out all the same";
    DelayCutShort, "delay-cut-short", "delays in coarse steps, rounded down",
        "a message waits for seven eighths of the time until it is to be delivered";
    LateRecallAnsweredOk, "late-recall-answered-ok", "cancellation that counts what is done already as cancelled",
        "the recall of a message that was delivered is answered with OK";
    AckOnLeaderOnly, "ack-on-leader-only", "change of state beside the log",
        "an acknowledgement is applied to the leader's memory and not proposed";
    LateAckAnsweredOk, "late-ack-answered-ok", "acknowledgement dropped and answered OK",
        "an acknowledgement without a lease is answered with OK";
    DedupBeforeCommit, "dedup-before-commit", "dedup recorded before the commit",
        "a leader remembers a send when it is proposed, and answers a retry by that";
    UnsureSendAnsweredOk, "unsure-send-answered-ok", "unknown outcome reported as success",
        "a forwarded send whose answer was lost is answered with OK";
    MessageGroupsScattered, "message-groups-scattered", "order kept by queue, and the queue chosen without it",
        "a message's queue follows from its id, whatever its message group";
    UnreadIsSkipped, "unread-is-skipped", "order kept by whoever delivers, and lost by whoever reads",
        "a message that cannot be read is left out of an answer, and what follows it in its message group is not";
    RepeatedRequestIgnored, "repeated-request-ignored", "a retried request that is carried out once more",
        "a receive that is repeated gets other messages than those that it has";
    UnsureSendGoesElsewhere, "unsure-send-goes-elsewhere", "retry of an unknown outcome at another shard",
        "a forwarded send whose answer was lost is sent to any shard again";
    RepliesMixedUp, "replies-mixed-up", "answers of a batch go to the wrong callers",
        "the replies of an entry with several commands are handed out shifted by one";
    BatchInSeveralEntries, "batch-in-several-entries", "a batch that is called atomic and is a loop",
        "each message of a request is proposed by itself, whatever becomes of the others";
    BatchReordered, "batch-reordered", "a batch whose order is that of whoever was ready first",
        "the messages of a request are stored in the reverse of their order";
    GoneClientLivesAtTheNewLeader, "gone-client-lives-at-the-new-leader", "grace period that starts anew with every look",
        "a leader counts clients that it never heard of as alive for as long as it leads";
    EmptyQueueNotBegun, "empty-queue-not-begun", "a position is taken at the first message instead of the first poll",
        "a consumer group that starts at the end does not begin on a queue that is empty";
    StartAtLastIgnored, "start-at-last-ignored", "auto.offset.reset taken as earliest",
        "a consumer group that is to start at the end is made to start at the beginning";
    TopicIdFromCount, "topic-id-from-count", "identity used again after a deletion",
        "a new topic has the id after the number of those there are";
    DeletedQueuesStillCount, "deleted-queues-still-count", "quota not given back by a deletion",
        "queues of a forgotten topic count until the next restart";
    GroupRemovalLeavesItsRow, "group-removal-leaves-its-row", "deletion in memory only",
        "a consumer group that is forgotten stays in what is stored";
    DropLeavesGroups, "drop-leaves-groups", "orphans of a deleted object",
        "data shards keep what they hold of deleted consumer groups";
    AckAnsweredBeforeCommit, "ack-answered-before-commit", "acknowledgement answered once it is queued",
        "an acknowledgement is answered with OK as soon as its lease holds and it is proposed";
    BatchAnswersShifted, "batch-answers-shifted", "scatter-gather answers put back in another order",
        "the results of a batch of acknowledgements are shifted by one";
    PartialAckRepeatedAsNew, "partial-ack-repeated-as-new", "partial success repeated as if nothing had happened",
        "a batch that took effect in part is repeated elsewhere as a new one";
    RefusedAfterAnUnsureTry, "refused-after-an-unsure-try", "a later, certain failure hides that the first try may have worked",
        "a request whose first try may have been carried out is refused as if nothing had been done";
    UnsureForwardCountsAsUndone, "unsure-forward-counts-as-undone", "unknown outcome counted as not done by a proxy",
        "a forwarded request whose outcome is unknown is repeated as a new one";
    BodyTruncated, "body-truncated", "buffer one byte too short",
        "a body of more than 4,096 bytes is delivered without its last one";
    DeadLetterLosesItsKeys, "dead-letter-loses-its-keys", "a copy leaves a field out",
        "a dead letter is delivered without its keys";
    DeadLetterNamesItself, "dead-letter-names-itself", "origin lost on the way to the dead letters",
        "a dead letter says that it comes from the dead letters";
    StoredWhenBorn, "stored-when-born", "the client's clock taken for the server's",
        "a message is said to have been stored when its sender says that it was born";
    SummedUpAsTheFirst, "summed-up-as-the-first", "partial failure of a batch reported as its first result",
        "the status over several results is that of the first";
    ChecksumNotChecked, "checksum-not-checked", "checksum passed along and compared by nobody",
        "a body is stored whatever the checksum that came with it says";
    BatchSizeIgnored, "batch-size-ignored", "a limit of the request that the server replaces by its own",
        "a receive takes as many messages as any may, whatever it asks for";
    FilterIgnored, "filter-ignored", "a subscription's filter that one path does not look at",
        "a receive takes whatever comes next";
    FilterPassesOverTheRest, "filter-passes-over-the-rest", "a page that is done with though only a part of it was used",
        "when an answer is full, whatever else was looked at for it is passed over";
    FilterHintAges, "filter-hint-ages", "a cache that is used for another place than it was filled for",
        "what a filter lets through is remembered from the wrong message on";
    AlwaysShortestLease, "always-shortest-lease", "a parameter that is checked and then not used",
        "every lease that a consumer chooses is as long as the shortest";
    HeartbeatIsNoSign, "heartbeat-is-no-sign", "keep-alive answered by a layer that tells nobody",
        "a heartbeat is answered, and no sign that its client lives";
    RouteNumbersGoOn, "route-numbers-go-on", "partitions numbered in the whole topic instead of at each server",
        "the queues in a route are numbered from 0 once, not at each node";
    TurnHeldWhileReading, "turn-held-while-reading", "a lock that is held across I/O",
        "a queue gives nothing else to a consumer group while what was leased last is read";
    RetriedBurialCountsAsDone, "retried-burial-counts-as-done", "what has come about somehow is taken for the request's doing",
        "a repeated request to bury a message is told that it is done when the message is over, whoever ended it";
    ShownEndIsTheLast, "shown-end-is-the-last", "offset of the last message taken for that of the next",
        "operators see each queue one message shorter than it is";
    AnyGroupsReceiptCounts, "any-groups-receipt-counts", "token checked for being good, not for whose it is",
        "a consumer group may decide about what another one has leased";
    ForwardedFromNobody, "forwarded-from-nobody", "a proxy hides where a request came from",
        "a request that is passed on comes from no host";
    LeaderTimeStands, "leader-time-stands", "logical clock set back by its own echo",
        "a leader sets its time back to that of the entry it just applied";
    FollowerTimeAhead, "follower-time-ahead", "clock of a follower runs on by itself",
        "a follower does not set its time back to that of the leader";
    TickStopsAfterRefusal, "tick-stops-after-refusal", "background loop that ends at its first error",
        "a leader no longer lets time pass once a tick was refused";
    RenewalNeverHappens, "renewal-never-happens", "keep-alive that keeps nothing alive",
        "leases are not renewed, whether their clients live or not";
    GoodByeIgnored, "good-bye-ignored", "disconnect that releases nothing",
        "the leases of a client that said good-bye run as if it were gone without one";
    GoodByeDuringLookLost, "good-bye-during-look-lost", "event lost between a look and the note that all was seen",
        "a good-bye that comes while others are seen to, which takes half a second longer, counts as seen to";
    FullRoomTurnsAway, "full-room-turns-away", "a full waiting room in front of a free counter",
        "where too many receives wait, others are refused without a look at what is there for them";
    InFlightWithoutBound, "in-flight-without-bound", "a limit that is counted and compared with nothing",
        "a consumer group may have any number of messages of a queue in flight";
    TurnNeverMoves, "turn-never-moves", "round robin that always begins at the first",
        "every receive of a consumer group begins at the same queue";
    OneFailedHandOverEndsAll, "one-failed-hand-over-ends-all", "shutdown that gives up at the first error",
        "an orderly stop hands nothing more over once one hand-over has failed";
    HalfSeenAtOnce, "half-seen-at-once", "prepared work that others see before it is committed",
        "a half message is stored as any other";
    RolledBackIsDelivered, "rolled-back-is-delivered", "rollback that commits",
        "a half message that is rolled back comes to its queue";
    ContraryEndAnsweredOk, "contrary-end-answered-ok", "idempotence that looks at the id and not at the request",
        "a transaction that ended one way is ended the other way, and that is answered as done";
    ChecksNotCounted, "checks-not-counted", "retries without an end, because the counter is not written back",
        "how often a transaction was checked back is not counted";
    CheckedTooOften, "checked-too-often", "a wait in the wrong unit",
        "a transaction is checked back again after a tenth of the time";
    ChecksForgottenByNewLeaders, "checks-forgotten-by-new-leaders", "work that is bound to the leader that began it",
        "a leader of a later term checks nothing back";
    NegativeComesFirst, "negative-comes-first", "signed number that is compared as one without a sign",
        "messages with a priority below 0 come before all others";
    RetriesLoseTheirLane, "retries-lose-their-lane", "retry queue without the priority of what is in it",
        "what is to be delivered again comes when there is nothing new, whatever its priority";
    UnseenLaneIsEmpty, "unseen-lane-is-empty", "search that was cut short and counts as one that found nothing",
        "a lane that takes long to look through for a filter does not keep lower ones from being delivered";
    AgeingForgotten, "ageing-forgotten", "starvation of what is least urgent",
        "how long a message waits weighs nothing, whatever its topic says";
    LanesInSeveralShards, "lanes-in-several-shards", "global order that holds in each partition only",
        "the lanes of a topic with priorities are divided among the shards, as other queues are";
    WindowIsANumber, "window-is-a-number", "time that is promised and a number that is kept",
        "the last sixteen message ids of a shard are remembered, however short a time that is";
    NewerGoesWithTheOlder, "newer-goes-with-the-older", "expiry by name of what has a successor of the same name",
        "when a message id is forgotten that was stored again since, nobody finds the later one any more";
}

/// Makes the bug of this name active for the rest of the process; false if there is none.
#[cfg(madsim)]
pub fn activate(name: &str) -> bool {
    let at = ALL.iter().position(|bug| bug.name() == name);
    if let Some(at) = at {
        ACTIVE.store(at, Ordering::Relaxed);
    }
    at.is_some()
}

/// Whether this bug is the active one.
#[cfg(madsim)]
#[must_use]
pub fn is(bug: Bug) -> bool {
    let reached = &REACHED[bug as usize];
    // Most lines are reached again and again, by several threads.
    if !reached.load(Ordering::Relaxed) {
        reached.store(true, Ordering::Relaxed);
    }
    ACTIVE.load(Ordering::Relaxed) == bug as usize
}

/// Bugs whose lines were reached in this process. In a world in which nobody reached it a bug cannot show.
#[cfg(madsim)]
pub fn reached() -> impl Iterator<Item = Bug> {
    let was_reached = |bug: &Bug| REACHED[*bug as usize].load(Ordering::Relaxed);
    ALL.iter().copied().filter(was_reached)
}

#[cfg(all(test, madsim))]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_one_bug_is_active_at_most() {
        for (at, bug) in ALL.iter().enumerate() {
            assert_eq!(*bug as usize, at);
            assert!(ALL[..at].iter().all(|other| other.name() != bug.name()));
            assert!(activate(bug.name()));
            assert_eq!(ALL.iter().filter(|bug| is(**bug)).count(), 1);
            assert!(reached().any(|other| other == *bug));
        }
        assert!(!activate("no such bug"));
    }
}

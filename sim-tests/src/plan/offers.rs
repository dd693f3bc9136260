//! In which worlds a planted bug can show at all: the search for it passes over the others.

use broker::views::BackoffView;
use plant::Bug;

use super::{Dying, Fault, Plan};

/// Whatever takes a node's memory, or ends its process.
const ENDS_A_PROCESS: &[Fault] = &[
    Fault::KillLeader,
    Fault::KillSome,
    Fault::KillAll,
    Fault::CrashVoters,
    Fault::DiskError,
    Fault::ErrorWithPower,
    Fault::OrderlyStop,
    Fault::LongOutage,
    Fault::OldRelease,
];

/// Whatever has a node rebuilt by others, or sent a snapshot.
const REBUILDS: &[Fault] = &[
    Fault::Wipe,
    Fault::SecondLoss,
    Fault::OldLeader,
    Fault::SenderDies,
    Fault::FullSender,
    Fault::LongOutage,
    Fault::StateLoss,
    Fault::OldDirectory,
    Fault::FileDamage,
    Fault::BitFlip,
    Fault::LyingDisk,
    Fault::SwappedDirectories,
    Fault::Isolate,
];

impl Plan {
    /// Whether the bug can show in this world, as far as the plan tells. Only what is certain is ruled out.
    #[must_use]
    pub fn offers(&self, bug: Bug) -> bool {
        let one_of = |faults: &[Fault]| faults.iter().any(|fault| self.faults.contains_key(fault));
        match bug {
            Bug::FailedSyncRetried | Bug::PageCacheBelievedAtRestart => {
                one_of(&[Fault::DiskError, Fault::ErrorWithPower])
            }
            Bug::ReadWithoutChecksum => one_of(&[Fault::BitFlip, Fault::LyingDisk, Fault::FileDamage]),
            Bug::StuckAfterAFullDisk => one_of(&[Fault::FullDisk, Fault::FullSender]),
            Bug::UnreadableSpareKept => one_of(&[Fault::ReadError]),
            Bug::LogWithoutItsBeginning | Bug::CorruptionAsTornTail => {
                one_of(&[Fault::FileDamage, Fault::BitFlip, Fault::LyingDisk])
            }
            Bug::IdentityWithoutChecksum | Bug::CutSegmentBlamesTheFirst => one_of(&[Fault::FileDamage]),
            Bug::NewSegmentNotSynced
            | Bug::SegmentEndNotSynced
            | Bug::DirectoryNotSynced
            | Bug::VoteNotSynced
            | Bug::AppliedBeforeSync
            | Bug::FlushToldBeforeItIsDone
            | Bug::FlushedAsOfAfter => one_of(ENDS_A_PROCESS) || self.slowness.outages > 0,
            Bug::AnotherClustersNodeAccepted => one_of(&[Fault::Visitor]),
            Bug::SwappedDirectoryAccepted => one_of(&[Fault::SwappedDirectories]),
            Bug::OlderDirectoryAccepted | Bug::OldEmptyDirectoryWaits => one_of(&[Fault::OldDirectory]),
            Bug::WipedReplicaVotes
            | Bug::IncarnationReused
            | Bug::LateDirectoryTakesThePlace
            | Bug::OldReplicaStays => one_of(REBUILDS),
            Bug::StateOlderThanPurgeAccepted => one_of(&[Fault::StateLoss, Fault::OldDirectory]),
            Bug::EngineFailureAsDamage => one_of(&[Fault::EngineFails]),
            Bug::NewerReleaseIgnored => one_of(&[Fault::OldRelease]),
            Bug::ShutdownWithoutFlush | Bug::ShutdownWithoutHandOver | Bug::OneFailedHandOverEndsAll => {
                one_of(&[Fault::OrderlyStop])
            }
            Bug::SnapshotClaimsMore
            | Bug::SnapshotWithoutMessages
            | Bug::InstallNoteNotFlushed
            | Bug::StageOfAnotherSnapshotKept
            | Bug::OwnTailTakenForTheSnapshots => one_of(REBUILDS),
            Bug::CopyMakesYoung
            | Bug::TrimmedPositionNotSaved
            | Bug::RetentionHalved
            | Bug::RetentionNeverByAge
            | Bug::CopiesForAgeWithoutEnd
            | Bug::CopiesAreCopiedAgain
            | Bug::RetentionForgetsDeadLettersForRoom => self.limits.forget(),
            Bug::CopiesForRoomWithoutEnd => self.limits.forget_for_room(),
            // Logs that are in a leader's own bound, and not in another's.
            Bug::OthersNeedsIgnored => self.limits.forget_for_room() && self.nodes > 1,
            Bug::RenewalWithoutLimit | Bug::RenewalNeverHappens | Bug::LostAnswersRenewed => self.push,
            Bug::GoneClientLivesAtTheNewLeader => self.push && (self.deaths || self.good_byes),
            // What its holder chose the end of waits for no backoff.
            Bug::ExponentialBackoffNeverGrows => {
                self.push && matches!(self.backoff, BackoffView::Exponential { .. })
            }
            Bug::BackoffListOneStepAhead => {
                self.push && matches!(self.backoff, BackoffView::Customized { .. })
            }
            Bug::GoodByeIgnored => self.push && self.good_byes,
            // It is lost while somebody else's is seen to.
            Bug::GoodByeDuringLookLost => self.push && self.good_byes && self.topics * self.consumers > 1,
            Bug::InFlightWithoutBound => self.limits.bounds.in_flight_per_queue < 100,
            // Else none is refused.
            Bug::FullRoomTurnsAway => self.limits.bounds.waiting_receives < 100,
            Bug::OrderIgnored | Bug::BlockedNotSaved | Bug::NextInOrderSkipped => {
                (0..self.groups).any(|number| self.is_fifo(&self.group(number)))
            }
            Bug::UnreadIsSkipped => {
                self.ordered && one_of(&[Fault::BitFlip, Fault::LyingDisk, Fault::FileDamage])
            }
            Bug::MessageGroupsScattered => self.ordered && self.queues > 1,
            Bug::RepeatedRequestIgnored | Bug::RepeatCountsAnAttempt | Bug::RepeatVoidsTheReceipt => {
                self.ordered
            }
            Bug::TurnNeverMoves => self.queues > 1,
            Bug::UnsureForwardCountsAsUndone => self.nodes > 1,
            Bug::MetaLeaderAsksNobody => self.nodes > 1 && (self.operator || one_of(&[Fault::Isolate])),
            // Where requests come twice nobody believes that nothing was done.
            Bug::RefusedAfterAnUnsureTry => self.nodes > 1 && !one_of(&[Fault::Disorder]),
            // It is late by a bad network, or because it was passed on.
            Bug::DeletesWhoeverBearsTheName | Bug::UnknownOutcomeAsNotDone | Bug::DroppedGroupBeginsAnew => {
                self.operator && self.nodes > 1
            }
            Bug::TopicIdFromCount
            | Bug::DeletedQueuesStillCount
            | Bug::GroupRemovalLeavesItsRow
            | Bug::RulesLeftBehind
            | Bug::DropLeavesGroups
            | Bug::OrphanedDeadLettersDeleted => self.operator,
            Bug::FilterIgnored
            | Bug::FilterPassesOverTheRest
            | Bug::FilterHintAges
            | Bug::FilteredNotCounted
            | Bug::FilteredPositionNotSaved => self.wanted.is_some(),
            Bug::PauseForgottenAtRestart => self.pauses && one_of(ENDS_A_PROCESS),
            Bug::PauseInTheCatalogueOnly => self.pauses,
            Bug::AnyOffsetIsTaken | Bug::PullGoesOnAtTheEnd => self.pulls,
            // Who leads no more does not know of it.
            Bug::OffsetAskedOfNobody => self.pulls && self.nodes > 1,
            Bug::DelayCutShort
            | Bug::LateRecallAnsweredOk
            | Bug::RecallLeavesTheMessage
            | Bug::TimersForgottenAtRestart
            | Bug::FiredUnknownToItsSender => self.delays,
            Bug::HistoryEndsWithTheLastLife
            | Bug::RedriveNotMarked
            | Bug::RedriveMarksOnly
            | Bug::RedriveKeepsItsAttempts => self.dying.is_some(),
            Bug::ParkedIsDelivered | Bug::LateDecisionCounts | Bug::ReleasedWithoutAttempts => {
                self.dying == Some(Dying::Parked)
            }
            Bug::ParkingForgottenAtRestart => self.dying == Some(Dying::Parked) && one_of(ENDS_A_PROCESS),
            Bug::HalfSeenAtOnce
            | Bug::RolledBackIsDelivered
            | Bug::ContraryEndAnsweredOk
            | Bug::ChecksNotCounted
            | Bug::CheckedTooOften => self.transactions,
            Bug::ChecksForgottenByNewLeaders => self.transactions && self.nodes > 1,
            Bug::NegativeComesFirst
            | Bug::RetriesLoseTheirLane
            | Bug::AgeingForgotten
            | Bug::LanesInSeveralShards => self.priorities,
            Bug::UnseenLaneIsEmpty => self.urgent.is_some(),
            Bug::WindowIsANumber | Bug::NewerGoesWithTheOlder => self.window,
            Bug::LateSeekCounts | Bug::DateFoundOneOff | Bug::SoughtNotCounted => self.replays,
            Bug::BatchAnswersShifted | Bug::BatchInSeveralEntries | Bug::BatchReordered => self.batches,
            // Else all of a batch is in one entry.
            Bug::PartialAckRepeatedAsNew => {
                self.batches && self.nodes > 1 && self.limits.bounds.entry_commands == 1
            }
            Bug::BodyTruncated => self.body > 4_096,
            _ => true,
        }
    }
}

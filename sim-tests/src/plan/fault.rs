//! The kinds of faults. What each does is in `nemesis`.

/// What can go wrong in a world. Each has a room of its own in `nemesis`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The leader of some shard loses power.
    KillLeader,
    /// Several nodes lose power at once.
    KillSome,
    /// All nodes lose power at once.
    KillAll,
    /// Whoever elected a leader loses power, and elects again without it.
    CrashVoters,
    /// A node stops for a while, and goes on as if nothing had been (SIGSTOP).
    Pause,
    /// One node hears and says nothing.
    Isolate,
    /// The nodes fall into two halves.
    Split,
    /// One node does not hear another, which hears it.
    OneWay,
    /// Packets get lost everywhere.
    Loss,
    /// Packets are slow everywhere.
    Latency,
    /// A disk syncs a hundred times slower.
    SlowDisk,
    /// A disk has no room.
    FullDisk,
    /// A write or a sync fails: the node stops, and is started again.
    DiskError,
    /// A node comes back with an empty disk.
    Wipe,
    /// A bit of a stored file is another one from now on.
    BitFlip,
    /// A write never happens, or lands elsewhere, and nobody is told.
    LyingDisk,
    /// A node's wall clock jumps by up to an hour.
    ClockJump,
    /// Requests come a second time, after others that were sent later.
    Disorder,
    /// A write or a sync fails, and the process is started again with the power on.
    ErrorWithPower,
    /// A read fails, once, twice, or until the place is written again.
    ReadError,
    /// A file of any kind is damaged, cut or gone.
    FileDamage,
    /// A node comes back with what it had stored a while ago.
    OldDirectory,
    /// A node that is being rebuilt loses its disk or its power again.
    SecondLoss,
    /// A node needs a snapshot, and whoever sends it dies.
    SenderDies,
    /// A node has to be rebuilt by others whose disks are full.
    FullSender,
    /// Another cluster's node is at a node's address for a while.
    Visitor,
    /// Nodes are down for minutes.
    LongOutage,
    /// A node is told to stop, ends well, and comes back.
    OrderlyStop,
    /// A node is started on files of a newer release.
    OldRelease,
    /// A state engine fails for a while.
    EngineFails,
    /// A state is gone, or an earlier one, under a log that is not.
    StateLoss,
    /// Two nodes come back with each other's disks.
    SwappedDirectories,
    /// A leader is cut off and writes on, and comes back when a node leads that was rebuilt since.
    OldLeader,
    /// A shard has one leader after the other, with slow disks, while much is asked of them.
    MovedLeader,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 34] = [
        Fault::KillLeader,
        Fault::KillSome,
        Fault::KillAll,
        Fault::CrashVoters,
        Fault::Pause,
        Fault::Isolate,
        Fault::Split,
        Fault::OneWay,
        Fault::Loss,
        Fault::Latency,
        Fault::SlowDisk,
        Fault::FullDisk,
        Fault::DiskError,
        Fault::Wipe,
        Fault::BitFlip,
        Fault::LyingDisk,
        Fault::ClockJump,
        Fault::Disorder,
        Fault::ErrorWithPower,
        Fault::ReadError,
        Fault::FileDamage,
        Fault::OldDirectory,
        Fault::SecondLoss,
        Fault::SenderDies,
        Fault::FullSender,
        Fault::Visitor,
        Fault::LongOutage,
        Fault::OrderlyStop,
        Fault::OldRelease,
        Fault::EngineFails,
        Fault::StateLoss,
        Fault::SwappedDirectories,
        Fault::OldLeader,
        Fault::MovedLeader,
    ];

    /// Those that leave all nodes but one alone.
    pub const OF_ONE_NODE: [Fault; 21] = [
        Fault::KillLeader,
        Fault::Pause,
        Fault::Isolate,
        Fault::OneWay,
        Fault::SlowDisk,
        Fault::FullDisk,
        Fault::DiskError,
        Fault::Wipe,
        Fault::BitFlip,
        Fault::LyingDisk,
        Fault::ClockJump,
        Fault::Disorder,
        Fault::ErrorWithPower,
        Fault::ReadError,
        Fault::FileDamage,
        Fault::OldDirectory,
        Fault::SecondLoss,
        Fault::Visitor,
        Fault::OrderlyStop,
        Fault::EngineFails,
        Fault::StateLoss,
    ];

    /// Whether nodes lose power by it as a matter of course.
    #[must_use]
    pub fn cuts_power(self) -> bool {
        matches!(self, Fault::KillLeader | Fault::KillSome | Fault::KillAll)
    }

    /// Whether it neither looks at what is stored nor changes it: then nobody minds when the power fails besides.
    #[must_use]
    pub fn leaves_disks_alone(self) -> bool {
        self.cuts_power()
            || matches!(
                self,
                Fault::Pause
                    | Fault::Isolate
                    | Fault::Split
                    | Fault::OneWay
                    | Fault::Loss
                    | Fault::Latency
                    | Fault::SlowDisk
                    | Fault::FullDisk
                    | Fault::ClockJump
                    | Fault::Disorder
                    | Fault::MovedLeader
            )
    }

    /// What it waits for seldom comes about, so it is tried more often than others.
    pub(super) fn often_fails(self) -> bool {
        matches!(self, Fault::SenderDies | Fault::OldLeader)
    }

    /// How many nodes a world needs for it to mean anything.
    pub(super) fn nodes_needed(self) -> u32 {
        match self {
            Fault::Wipe | Fault::BitFlip | Fault::LyingDisk | Fault::CrashVoters => 3,
            Fault::ReadError | Fault::FileDamage | Fault::OldDirectory | Fault::SecondLoss => 3,
            Fault::SenderDies | Fault::FullSender | Fault::Visitor | Fault::StateLoss => 3,
            Fault::SwappedDirectories => 3,
            // Those that are left when two are away are a majority, even of a joint change.
            Fault::OldLeader => 5,
            Fault::MovedLeader | Fault::Isolate | Fault::Split | Fault::OneWay | Fault::KillSome => 2,
            _ => 1,
        }
    }

    /// The name in counters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fault::KillLeader => "fault kill leader",
            Fault::KillSome => "fault kill some",
            Fault::KillAll => "fault kill all",
            Fault::CrashVoters => "fault crash voters",
            Fault::Pause => "fault pause",
            Fault::Isolate => "fault isolate",
            Fault::Split => "fault split",
            Fault::OneWay => "fault one way",
            Fault::Loss => "fault loss",
            Fault::Latency => "fault latency",
            Fault::SlowDisk => "fault slow disk",
            Fault::FullDisk => "fault full disk",
            Fault::DiskError => "fault disk error",
            Fault::Wipe => "fault wipe",
            Fault::BitFlip => "fault bit flip",
            Fault::LyingDisk => "fault lying disk",
            Fault::ClockJump => "fault clock jump",
            Fault::Disorder => "fault disorder",
            Fault::ErrorWithPower => "fault error with power",
            Fault::ReadError => "fault read error",
            Fault::FileDamage => "fault file damage",
            Fault::OldDirectory => "fault old directory",
            Fault::SecondLoss => "fault second loss",
            Fault::SenderDies => "fault sender dies",
            Fault::FullSender => "fault full sender",
            Fault::Visitor => "fault visitor",
            Fault::LongOutage => "fault long outage",
            Fault::OrderlyStop => "fault orderly stop",
            Fault::OldRelease => "fault old release",
            Fault::EngineFails => "fault engine fails",
            Fault::StateLoss => "fault state loss",
            Fault::SwappedDirectories => "fault swapped directories",
            Fault::OldLeader => "fault old leader",
            Fault::MovedLeader => "fault moved leader",
        }
    }
}

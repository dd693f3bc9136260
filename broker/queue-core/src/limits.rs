//! The core's bounds. They are part of the state machine: changing one changes what a
//! log means, so a change needs a new entry version.

/// A send with an id stored within this time is a retry.
pub const DEDUP_WINDOW_MS: u64 = 120_000;
/// Message ids remembered by one shard, as rows: as many as come within the window at 139,000 a second. More shorten the window.
pub const DEDUP_WINDOW_MESSAGES: u64 = 16_777_216;
/// Of the oldest of them, how many are read at once.
pub const DEDUP_PAGE: usize = 64;
/// Ids forgotten by one append at most; more than one, so that the window shrinks.
pub const DEDUP_FORGET_PER_APPEND: usize = 4;
/// Messages leased or waiting in one subscription.
pub const MAX_IN_FLIGHT: usize = 65_536;
/// Messages leased by one deliver command.
pub const MAX_DELIVER: usize = 1024;
/// Messages passed over by one deliver command. It costs no row.
pub const MAX_PASSED_OVER: u64 = 65_536;
/// New messages, or messages of one message group, that one deliver command in order looks at: it reads the row of each.
pub const MAX_LOOKED_IN_ORDER: usize = 1024;
/// A request that is repeated gets what it has until so long after it was given. Then the lease ends, and the attempt counts.
pub const REPEATED_WITHIN_MS: u64 = 300_000;
/// Clients in one command that prolongs or ends their leases.
pub const MAX_RENEW_CLIENTS: usize = 256;
/// Leases ended by one tick command.
pub const MAX_EXPIRIES: usize = 4096;
/// Leases changed by one command that prolongs or ends them, or that says that they were written out.
pub const MAX_RENEW_LEASES: usize = 4096;
/// Rows that one trim or drop command removes at most, whatever it asks for: the shard's other commands wait meanwhile.
pub const MAX_FORGET: u32 = 4096;
/// The wait between attempts of a subscription without a backoff.
pub const DEFAULT_BACKOFF_MS: u64 = 10_000;
/// Bytes of one entry's payload: as many as a record of the log holds.
pub const MAX_ENTRY_PAYLOAD: usize = 8 * 1024 * 1024;
/// Messages that one fire command gives their places in their queues, or forgets.
pub const MAX_FIRE: usize = 4096;
/// That a message was recalled is known for so long: whoever asks again in this time learns that it was, and not delivered.
pub const RECALLED_KEPT_MS: u64 = 600_000;
/// Of what became of a message before, the last that is kept.
pub const MAX_NOTES: usize = 16;
/// Dead letters that one command gives back.
pub const MAX_REDRIVE: usize = 256;
/// Nothing more is given back to a subscription that has so many messages leased or waiting: the others keep their room.
pub const MAX_GIVEN_BACK: usize = 8_192;
/// Parked messages that one command decides on.
pub const MAX_UNPARK: usize = 256;
/// Messages of one subscription at which their message groups stopped: a part of [`MAX_IN_FLIGHT`], so that the others go on. What
/// finds no room waits and is delivered again, as a message that cannot become a dead letter.
pub const MAX_PARKED: usize = 16_384;
/// Half messages of one queue that nobody has ended, those that were given up included. Nothing else ends them, and no age: over it
/// others are refused, until some are ended.
pub const MAX_OPEN_HALVES: u64 = 65_536;
/// Half messages that one command checks back, or gives up.
pub const MAX_CHECK_BACK: usize = 1024;
/// How a transaction ended is known for so long: who ends it again in this time learns which end counts.
pub const ENDED_KEPT_MS: u64 = 600_000;
/// Lanes of a PRIORITY topic, each of which is a queue. All of them are looked at by each delivery.
pub const LANES: u32 = 16;
/// Rows read at once while the state is loaded.
pub const LOAD_PAGE: usize = 4096;
/// Rows read at first where a few are probably enough.
pub const LOOK_PAGE: usize = 16;

const _: () = assert!(DEDUP_FORGET_PER_APPEND > 1);
// A half message that is sent again is known by its number for as long as its id is.
const _: () = assert!(ENDED_KEPT_MS >= DEDUP_WINDOW_MS);
const _: () = assert!(MAX_DELIVER <= MAX_IN_FLIGHT);
const _: () = assert!(MAX_PARKED + MAX_DELIVER <= MAX_IN_FLIGHT);
const _: () = assert!(MAX_PARKED + MAX_GIVEN_BACK + MAX_DELIVER <= MAX_IN_FLIGHT);
const _: () = assert!(0 < LOOK_PAGE && LOOK_PAGE <= LOAD_PAGE);

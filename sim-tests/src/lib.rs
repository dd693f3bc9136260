//! Deterministic simulation of whole clusters: the broker's own node, meta, queue and service code
//! under a simulated scheduler, network, clock and disk, all drawn from one seed.
//!
//! | module | what |
//! |---|---|
//! | `trace` | the hash over everything that happens; equal for equal seeds |
//! | `disk`, `clock`, `peers` | the seams of the broker, simulated and traced |
//! | `host` | one machine: what lasts, and the broker process that can be killed |
//! | `plan` | the world a seed draws |
//! | `client`, `workload` | a client of the service over the simulated network, and what clients do |
//! | `history`, `oracle` | what clients did and saw, and the promises that must hold for it |
//! | `janitor` | an administrator who has messages forgotten |
//! | `nemesis`, `atlas` | faults, and what may be broken at the same time |
//! | `coverage` | counters of what happened |
//! | `world` | all of it, and the verdict |
//! | `log` | log lines with simulated time; an ERROR fails the run |
//!
//! Built only with `RUSTFLAGS="--cfg madsim"`: see `make sim-smoke`.

#[cfg(madsim)]
pub mod atlas;
#[cfg(madsim)]
pub mod client;
#[cfg(madsim)]
pub mod clock;
#[cfg(madsim)]
pub mod coverage;
#[cfg(madsim)]
pub mod disk;
#[cfg(madsim)]
pub mod history;
#[cfg(madsim)]
pub mod host;
#[cfg(madsim)]
pub mod janitor;
#[cfg(madsim)]
pub mod log;
#[cfg(madsim)]
pub mod nemesis;
#[cfg(madsim)]
pub mod oracle;
#[cfg(madsim)]
pub mod peers;
#[cfg(madsim)]
pub mod plan;
#[cfg(madsim)]
pub mod trace;
#[cfg(madsim)]
pub mod workload;
#[cfg(madsim)]
pub mod world;

//! Deterministic simulation of whole clusters: the broker's own node, meta, queue and service code
//! under a simulated scheduler, network, clock and disk, all drawn from one seed. And, without the simulator, chaos: real
//! processes under real faults, judged by the same oracles.
//!
//! | module | what |
//! |---|---|
//! | `history`, `oracle` | what clients did and saw, and the promises that must hold for it |
//! | `chaos` | real processes, and what is done to them; built without the flag below: see `make chaos` |
//!
//! The simulator is built only with `RUSTFLAGS="--cfg madsim"` (see `make sim-smoke`):
//!
//! | module | what |
//! |---|---|
//! | `trace` | the hash over everything that happens; equal for equal seeds |
//! | `disk`, `clock`, `peers` | the seams of the broker, simulated and traced |
//! | `quiet` | timers and streams that do not wake a task for nothing |
//! | `host` | one machine: what lasts, and the broker process that can be killed |
//! | `plan` | the world a seed draws |
//! | `readers` | which messages are for which consumer groups |
//! | `client`, `workload` | a client of the service over the simulated network, and what clients do |
//! | `letter` | what is in the messages |
//! | `answers` | what an answer must be, field by field |
//! | `machine` | how long blocking work takes, and power that fails in the middle of it |
//! | `workload::operator` | an operator who makes and deletes topics and consumer groups |
//! | `nemesis`, `atlas` | faults, and what may be broken at the same time |
//! | `harm` | what faults have done to whom, and what that excuses |
//! | `watch` | the oracles that look into the nodes, at work |
//! | `coverage`, `commands` | counters of what happened, and of the commands that were applied |
//! | `world` | all of it, and the verdict |
//! | `log` | log lines with simulated time; an ERROR that `harm` does not excuse fails the run |

#[cfg(madsim)]
pub mod answers;
#[cfg(madsim)]
pub mod atlas;
#[cfg(not(madsim))]
pub mod chaos;
#[cfg(madsim)]
pub mod client;
#[cfg(madsim)]
pub mod clock;
#[cfg(madsim)]
pub mod commands;
#[cfg(madsim)]
pub mod coverage;
#[cfg(madsim)]
pub mod disk;
#[cfg(madsim)]
mod ending;
#[cfg(madsim)]
pub mod harm;
pub mod history;
#[cfg(madsim)]
pub mod host;
#[cfg(madsim)]
pub mod letter;
#[cfg(madsim)]
pub mod log;
#[cfg(madsim)]
pub mod machine;
#[cfg(madsim)]
pub mod nemesis;
pub mod oracle;
#[cfg(madsim)]
pub mod peers;
#[cfg(madsim)]
pub mod plan;
#[cfg(madsim)]
mod quiet;
pub mod readers;
#[cfg(madsim)]
pub mod trace;
#[cfg(madsim)]
pub mod watch;
#[cfg(madsim)]
pub mod workload;
#[cfg(madsim)]
pub mod world;

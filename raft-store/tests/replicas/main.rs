//! Replicas of a shard in one process: real consensus, simulated disks, an in-process transport.

#![cfg(not(madsim))]

mod closing;
mod cluster;
mod damage;
mod elections;
mod faults;
#[cfg(feature = "rocks")]
mod golden;
mod ledger;
mod restarts;
mod retention;
mod snapshots;

//! The service of one and of three nodes, driven through its functions: everything but
//! sockets. Disk and state engine are the simulator's, with its crashes.

mod batches;
#[cfg(feature = "server")]
mod bench;
mod bounds;
mod cluster;
mod damage;
mod dead_letters;
mod delay;
mod deletion;
mod elsewhere;
mod failover;
mod filters;
mod full_rooms;
mod metrics;
mod one_node;
mod order;
mod parked;
mod pause;
mod priority;
mod pull;
mod renewals;
mod replay;
mod retention;
mod start_at;
mod strangers;
mod transaction;

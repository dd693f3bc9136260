//! Tests of the log, on the simulated and the real disk.

mod behaviour;
mod crash;
mod faults;
mod flips;
mod golden;
mod model;
mod random;
mod room;
mod world;

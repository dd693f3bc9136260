//! Tests of the pure core: every command by itself, and random logs against a model.

mod ack;
mod append;
mod configure;
mod copy_forward;
mod delay;
mod deliver;
mod in_order;
mod letters;
mod model;
mod parking;
mod pause;
mod priority;
mod random;
mod reading;
mod release;
mod renew;
mod seek;
mod steps;
mod support;
mod tick;
mod transaction;
mod trim;

//! The Flotilla broker.

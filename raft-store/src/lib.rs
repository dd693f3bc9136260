//! Replicates opaque commands.

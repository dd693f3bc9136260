//! Log lines on stderr.

use std::io::IsTerminal;

use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::third_parties::QUIET;

/// Chooses lines by FLOTILLA_LOG, else RUST_LOG, else `info`.
pub(super) fn init() -> Result<(), String> {
    let chosen = ["FLOTILLA_LOG", "RUST_LOG"].into_iter().find_map(|name| {
        Some((
            name,
            std::env::var(name).ok().filter(|text| !text.trim().is_empty())?,
        ))
    });
    let targets = match chosen {
        Some((name, text)) => text.parse::<Targets>().map_err(|error| {
            format!(
                "environment variable {name} = `{text}`: {error}; write it like info or info,broker=debug"
            )
        })?,
        None => Targets::new()
            .with_default(tracing::Level::INFO)
            .with_targets(QUIET.iter().copied()),
    };
    let lines = tracing_subscriber::fmt::layer()
        .compact()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(lines.with_filter(targets))
        .init();
    Ok(())
}

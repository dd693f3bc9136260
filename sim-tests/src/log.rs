//! Log lines of the run, and the rule that an ERROR means a person must look: it fails the run.

use std::{
    fmt::Write,
    sync::{Mutex, PoisonError},
};

use broker::third_parties::QUIET;
use tracing::{Event, Level, Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, Targets},
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

static ERRORS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Starts logging, once per process. `FLOTILLA_LOG` chooses what is shown (nothing by default).
pub fn start() {
    let filter = EnvFilter::try_from_env("FLOTILLA_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    // madsim opens spans of level ERROR around every poll of a task, which cost time and say nothing.
    let errors_only = Targets::new()
        .with_default(LevelFilter::ERROR)
        .with_target("madsim", LevelFilter::OFF)
        .with_targets(QUIET.iter().copied());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time();
    tracing_subscriber::registry()
        .with(Errors.with_filter(errors_only))
        .with(lines.with_filter(filter))
        .init();
}

/// What was logged as ERROR since the start.
#[must_use]
pub fn errors() -> Vec<String> {
    ERRORS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

struct Errors;

impl<S: Subscriber> Layer<S> for Errors {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() != Level::ERROR {
            return;
        }
        let mut line = event.metadata().target().to_owned();
        event.record(&mut |field: &Field, value: &dyn std::fmt::Debug| {
            let _ = write!(line, " {field}={value:?}");
        });
        ERRORS.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

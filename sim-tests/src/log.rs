//! Log lines of the run, and the rule that an ERROR means a person must look: it fails the run.

use std::{
    fmt::Write,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use broker::third_parties::QUIET;
use madsim::{runtime::Handle, task::NodeId, time::TimeHandle};
use tracing::{Event, Level, Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, Targets},
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

static ERRORS: Mutex<Vec<Line>> = Mutex::new(Vec::new());

/// A line that was logged as ERROR.
#[derive(Debug, Clone)]
pub struct Line {
    /// On which machine, and when; nothing outside a simulation.
    pub place: Option<(NodeId, Duration)>,
    /// What it says.
    pub text: String,
}

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
pub fn errors() -> Vec<Line> {
    ERRORS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

struct Errors;

impl<S: Subscriber> Layer<S> for Errors {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() != Level::ERROR {
            return;
        }
        let mut text = event.metadata().target().to_owned();
        event.record(&mut |field: &Field, value: &dyn std::fmt::Debug| {
            let _ = write!(text, " {field}={value:?}");
        });
        let line = Line { place: place(), text };
        ERRORS.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

/// Whatever runs in a simulation is a task of some machine, and so is the end of one that was killed.
fn place() -> Option<(NodeId, Duration)> {
    Handle::try_current().ok()?;
    Some((madsim::plugin::node(), TimeHandle::current().elapsed()))
}

//! Tells the user how a run is going: one changing line on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use super::recorder::Recorder;

const ON_TERMINAL: Duration = Duration::from_millis(500);
const IN_A_FILE: Duration = Duration::from_secs(5);

/// A running display; it ends when this is dropped.
pub(super) struct Progress(JoinHandle<()>);

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Display {
    name: String,
    bar: Option<ProgressBar>,
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Progress {
    /// Shows a load while it runs.
    pub(super) fn of_load(name: &str, recorder: Arc<Recorder>) -> Self {
        let window = recorder.window.as_millis() as u64;
        let mut last = (Instant::now(), recorder.totals());
        Self::start(name, window, move || {
            let (now, totals) = (Instant::now(), recorder.totals());
            let seconds = now.duration_since(last.0).as_secs_f64().max(0.001);
            let (sent, received) = (
                (totals.0 - last.1.0) as f64 / seconds,
                (totals.1 - last.1.1) as f64 / seconds,
            );
            last = (now, totals);
            let failed: u64 = recorder.failures().values().map(|failure| failure.count).sum();
            let elapsed = now.saturating_duration_since(recorder.start);
            let text = format!(
                "{:>4} s  sent {sent:>8.0}/s  received {received:>8.0}/s  send p99 {:.1} ms  failures {failed}",
                elapsed.as_secs(),
                recorder.sends().p99 as f64 / 1e3,
            );
            (elapsed.as_millis() as u64, text)
        })
    }

    /// Shows how much of what was acknowledged has arrived.
    pub(super) fn of_verification(acknowledged: u64, outstanding: impl Fn() -> u64 + Send + 'static) -> Self {
        Self::start("verify", acknowledged, move || {
            let arrived = acknowledged.saturating_sub(outstanding());
            (
                arrived,
                format!("{arrived} of {acknowledged} acknowledged messages arrived"),
            )
        })
    }

    fn start(name: &str, length: u64, mut look: impl FnMut() -> (u64, String) + Send + 'static) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = terminal.then(|| {
            let style =
                ProgressStyle::with_template("{prefix} [{bar:24}] {msg}").expect("the template is good");
            ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr())
                .with_style(style)
                .with_prefix(name.to_owned())
        });
        let display = Display {
            name: name.to_owned(),
            bar,
        };
        Self(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(if terminal { ON_TERMINAL } else { IN_A_FILE });
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let (position, text) = look();
                match &display.bar {
                    Some(bar) => {
                        bar.set_position(position.min(length));
                        bar.set_message(text);
                    }
                    None => eprintln!("{}: {text}", display.name),
                }
            }
        }))
    }
}

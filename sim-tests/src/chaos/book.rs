//! What is written down during a run: the history that the oracles watch, when sends were acknowledged, what happened how
//! often, and everything once more in a file, for people who look for the cause of a violation.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::client::Failure;
use crate::history::{Event, History};

/// The book of a run. Clones are the same book.
#[derive(Clone)]
pub(super) struct Book {
    /// What the oracles watch.
    pub(super) history: History,
    began: Instant,
    pages: Arc<Mutex<Pages>>,
}

struct Pages {
    file: BufWriter<File>,
    acknowledged: Vec<Duration>,
    counts: BTreeMap<String, u64>,
}

impl Book {
    /// An empty book; time begins now.
    pub(super) fn new(history: History, file: &Path) -> io::Result<Book> {
        Ok(Book {
            history,
            began: Instant::now(),
            pages: Arc::new(Mutex::new(Pages {
                file: BufWriter::new(File::create(file)?),
                acknowledged: Vec::new(),
                counts: BTreeMap::new(),
            })),
        })
    }

    /// Time since the start of the run; steady.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A client did or saw something now.
    pub(super) fn record(&self, event: &Event) {
        let mut pages = self.pages();
        // The time is taken where the order is made, so that both agree.
        let at = self.now();
        self.history.record(at, event);
        pages.line(at, &format!("{event:?}"));
        if let Event::Stored { .. } = event {
            pages.acknowledged.push(at);
        }
    }

    /// Something for people to know.
    pub(super) fn note(&self, what: &str) {
        let at = self.now();
        println!("  {:7.1} s  {what}", at.as_secs_f64());
        self.pages().line(at, what);
    }

    /// A line of the file.
    pub(super) fn keep(&self, what: &str) {
        let at = self.now();
        self.pages().line(at, what);
    }

    /// A promise was found broken outside of the history.
    pub(super) fn broken(&self, what: String) {
        self.note(&format!("WRONG: {what}"));
        self.history.broken(what);
    }

    /// It happened once more.
    pub(super) fn count(&self, what: &str) {
        *self.pages().counts.entry(what.to_owned()).or_default() += 1;
    }

    /// A request to a node did not succeed.
    pub(super) fn failed(&self, request: &str, node: u32, failure: &Failure) {
        let (kind, words) = (failure.kind(), failure.words());
        self.count(&format!("{request} {kind}"));
        self.keep(&format!("{request} at node {node} {kind}: {words}"));
    }

    /// What happened how often.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.pages().counts.clone()
    }

    /// When sends were acknowledged, in order.
    pub(super) fn acknowledged(&self) -> Vec<Duration> {
        self.pages().acknowledged.clone()
    }

    /// Writes out the file.
    pub(super) fn close(&self) {
        if let Err(error) = self.pages().file.flush() {
            eprintln!("chaos: the history cannot be written: {error}");
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn line(&mut self, at: Duration, what: &str) {
        // A full disk of the machine is no finding about the cluster; `close` says it.
        let _ = writeln!(self.file, "{:.6} {what}", at.as_secs_f64());
    }
}

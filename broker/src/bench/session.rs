//! One run from first to last step: prepare, calibrate, load, verify, calibrate again, report.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::body::RunId;
use super::calibrate::{self, Calibration};
use super::client::Cluster;
use super::consume::{Books, Consumers, Pace, Running, workers};
use super::ledger::Ledger;
use super::nodes::{Nodes, Readings};
use super::options::{Mode, Plan, Rate};
use super::produce::Producers;
use super::progress::Progress;
use super::recorder::Recorder;
use super::report::Report;
use super::schedule::{Due, Schedule, Source};
use super::tally::Consumed;
use super::{BenchError, limits, locked};

/// After the last acknowledged message arrived, consumers listen on for what must not come.
const LISTEN_ON: Duration = Duration::from_secs(3);
/// A consuming run that shall end when nothing comes waits that long.
const EMPTY_FOR: Duration = Duration::from_secs(5);
/// How often conditions are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Whether what was sent is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verify {
    Yes,
    No,
}

/// What a load left behind.
pub(super) struct Loaded {
    pub run: RunId,
    pub groups: Vec<String>,
    pub queues: u32,
    pub recorder: Arc<Recorder>,
    pub ledger: Option<Arc<Ledger>>,
    pub consumed: Option<Consumed>,
    pub before: Readings,
    pub after: Readings,
    /// Milliseconds since 1970 at which the measured window began.
    pub started_ms: u64,
    /// Due and never sent: at the end, and at the worst moment.
    pub backlog: (usize, usize),
    pub verification: Option<Duration>,
}

impl Loaded {
    /// Messages of the measured window.
    pub(super) fn messages(&self, mode: Mode) -> u64 {
        match mode {
            Mode::Consume => self.recorder.received_in_window(),
            Mode::Produce | Mode::Both => self.recorder.sent_in_window(),
        }
    }

    /// Messages a second in the measured window; a consuming run counts while messages came.
    pub(super) fn messages_per_second(&self, mode: Mode) -> f64 {
        let span = match mode {
            Mode::Consume => self.recorder.receiving_span().unwrap_or_default(),
            Mode::Produce | Mode::Both => self.recorder.window,
        };
        if span.is_zero() {
            0.0
        } else {
            self.messages(mode) as f64 / span.as_secs_f64()
        }
    }
}

/// A whole run.
///
/// # Errors
/// Whatever kept it from taking place.
pub(super) async fn run(plan: &Plan) -> Result<Report, BenchError> {
    let nodes = Nodes::discover(plan).await?;
    let queues = queues_of(plan, &nodes).await?;
    let before = if plan.target.no_calibrate {
        None
    } else {
        Some(calibrate::noop(plan, queues).await?)
    };
    let loaded = load(plan, &nodes, Verify::Yes, plan.mode.name()).await?;
    let calibration = match before {
        None => None,
        Some(noop_before) => {
            let noop_after = calibrate::noop(plan, queues).await?;
            let disk = calibrate::sync_loop(&plan.target.calibrate_dir, plan.target.calibrate_for).await?;
            let noop_messages_per_second =
                (noop_before.messages_per_second + noop_after.messages_per_second) / 2.0;
            Some(Calibration {
                noop_before,
                noop_after,
                noop_messages_per_second,
                disk,
            })
        }
    };
    Ok(Report::new(plan, &nodes, &loaded, calibration))
}

/// Makes sure the topics exist, before minutes of calibration, and counts their queues.
async fn queues_of(plan: &Plan, nodes: &Nodes) -> Result<u32, BenchError> {
    let topics = plan.topics();
    nodes.create(plan, &topics, &[]).await?;
    let cluster = Cluster::new(plan.connecting(), "bench@preparing");
    let mut queues = 0;
    for topic in &topics {
        queues += cluster.await_route(topic).await?.readable.len();
    }
    Ok(u32::try_from(queues.min(limits::DEFAULT_CONSUMERS)).expect("bounded"))
}

/// One load of the plan's kind.
///
/// # Errors
/// If the cluster does not know the topics, or does not let the consumer group be made known.
pub(super) async fn load(
    plan: &Plan,
    nodes: &Nodes,
    verify: Verify,
    name: &str,
) -> Result<Loaded, BenchError> {
    let run = RunId::draw();
    let cluster = Arc::new(Cluster::new(plan.connecting(), &format!("bench@{run}")));
    let topics: Arc<[String]> = plan.topics().into();
    let groups = plan.groups(run);
    nodes.create(plan, &topics, &groups).await?;
    let mut queues = 0;
    for topic in topics.iter() {
        queues += cluster.await_route(topic).await?.readable.len();
    }
    let _fresh = cluster.keep_fresh(topics.clone());
    let preparation = Preparation {
        plan,
        nodes,
        verify,
        name,
        run,
        cluster,
        topics,
        groups,
        queues: queues as u32,
    };
    match plan.mode {
        Mode::Consume => preparation.consume().await,
        Mode::Produce | Mode::Both => preparation.produce().await,
    }
}

/// Everything a load needs.
struct Preparation<'a> {
    plan: &'a Plan,
    nodes: &'a Nodes,
    verify: Verify,
    name: &'a str,
    run: RunId,
    cluster: Arc<Cluster>,
    topics: Arc<[String]>,
    groups: Vec<String>,
    queues: u32,
}

impl Preparation<'_> {
    fn recorder(&self, rate: Option<f64>) -> Arc<Recorder> {
        let start = Instant::now() + self.plan.target.warmup;
        Arc::new(Recorder::new(start, self.plan.target.duration, rate))
    }

    fn consumers(
        &self,
        number: usize,
        books: Books,
        recorder: &Arc<Recorder>,
        listening: bool,
    ) -> Arc<Consumers> {
        let each = workers(self.plan.consume.consumers, self.queues as usize);
        Arc::new(Consumers {
            cluster: self.cluster.clone(),
            topics: self.topics.clone(),
            group: self.groups[number].clone(),
            ack: self.plan.consume.ack,
            invisible: self.plan.consume.invisible,
            pace: Pace {
                every: self.plan.consume.receive_every,
                first: number * each,
                of: self.groups.len() * each,
            },
            books,
            recorder: recorder.clone(),
            listening: AtomicBool::new(listening),
        })
    }

    fn loaded(&self, recorder: Arc<Recorder>, readings: (Readings, Readings)) -> Loaded {
        let started_ago = recorder.start.elapsed().as_millis() as u64;
        Loaded {
            run: self.run,
            groups: self.groups.clone(),
            queues: self.queues,
            started_ms: (super::body::now_ns() / 1_000_000).saturating_sub(started_ago),
            recorder,
            ledger: None,
            consumed: None,
            before: readings.0,
            after: readings.1,
            backlog: (0, 0),
            verification: None,
        }
    }

    async fn produce(self) -> Result<Loaded, BenchError> {
        let options = &self.plan.produce;
        let producers = self.plan.producers();
        let ledger = Arc::new(Ledger::new(
            self.run,
            producers,
            self.topics.len() as u32,
            options.message_groups,
        ));
        let receiving = self.plan.mode == Mode::Both;
        let rate = match options.rate {
            Rate::Max => None,
            Rate::PerSecond(rate) => Some(rate),
        };
        if self.verify == Verify::Yes {
            // Nothing of this is measured, so it has a recorder of its own.
            let unmeasured = self.recorder(rate);
            let priming = self.consumers(0, Books::Ledger(ledger.clone()), &unmeasured, true);
            priming.prime().await?;
        }
        let recorder = self.recorder(rate);
        let consumers = self.consumers(0, Books::Ledger(ledger.clone()), &recorder, receiving);
        let running = if receiving {
            Some(consumers.start(self.plan.consume.consumers).await)
        } else {
            None
        };
        let source = self.source(rate, &recorder);
        let sending = Arc::new(Producers {
            cluster: self.cluster.clone(),
            topics: self.topics.clone(),
            options: options.clone(),
            ledger: ledger.clone(),
            recorder: recorder.clone(),
            source: source.clone(),
            host: host_name(),
        });
        let workers = sending.start(producers);
        let progress = Progress::of_load(self.name, recorder.clone());
        let readings = self.readings(&recorder, || false).await;
        futures::future::join_all(workers).await;
        let backlog = source.backlog();
        drop(progress);
        let verification = match self.verify {
            Verify::Yes => Some(self.verify(&consumers, running, &ledger).await),
            Verify::No => None,
        };
        Ok(Loaded {
            ledger: Some(ledger),
            backlog,
            verification,
            ..self.loaded(recorder, readings)
        })
    }

    fn source(&self, rate: Option<f64>, recorder: &Recorder) -> Source {
        let (now, until) = (Instant::now(), recorder.start + recorder.window);
        match rate {
            None => Source::Closed { until },
            Some(rate) => {
                let schedule = Schedule::new(self.plan.produce.arrivals, rate, self.run.0);
                Source::Open(Due::start(schedule, now, until))
            }
        }
    }

    /// The readings at the beginning and at the end of the measured window.
    async fn readings(&self, recorder: &Recorder, over: impl Fn() -> bool) -> (Readings, Readings) {
        tokio::time::sleep_until(recorder.start.into()).await;
        let before = self.nodes.readings().await;
        let end = recorder.start + recorder.window;
        while Instant::now() < end && !over() {
            tokio::time::sleep(LOOK.min(end.saturating_duration_since(Instant::now()))).await;
        }
        (before, self.nodes.readings().await)
    }

    /// Waits until everything acknowledged has arrived, or nothing comes any more.
    async fn verify(
        &self,
        consumers: &Arc<Consumers>,
        running: Option<Running>,
        ledger: &Arc<Ledger>,
    ) -> Duration {
        let began = Instant::now();
        consumers.listening.store(false, Ordering::Relaxed);
        let running = match running {
            Some(running) => running,
            None => consumers.start(self.plan.consume.consumers).await,
        };
        let watched = ledger.clone();
        let (acknowledged, _) = consumers.recorder.totals();
        let progress = Progress::of_verification(acknowledged, move || watched.outstanding());
        // An old backlog of others may have to be read first: that is progress too.
        let (mut last, mut moved) = ((0, 0), Instant::now());
        loop {
            let now = (ledger.outstanding(), ledger.foreign_so_far());
            if now.0 == 0 {
                break;
            }
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            if moved.elapsed() > self.plan.consume.patience {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        consumers.listening.store(true, Ordering::Relaxed);
        tokio::time::sleep(LISTEN_ON.min(self.plan.consume.patience)).await;
        drop((progress, running));
        began.elapsed()
    }

    async fn consume(self) -> Result<Loaded, BenchError> {
        let recorder = self.recorder(None);
        let all: Vec<Arc<Consumers>> = (0..self.groups.len())
            .map(|number| self.consumers(number, Books::Tally(Mutex::default()), &recorder, true))
            .collect();
        let mut running = Vec::new();
        for consumers in &all {
            running.push(consumers.start(self.plan.consume.consumers).await);
        }
        let progress = Progress::of_load(self.name, recorder.clone());
        let last = Mutex::new((recorder.totals(), Instant::now()));
        let until_empty = self.plan.consume.until_empty;
        let over = || {
            let totals = recorder.totals();
            let mut last = locked(&last);
            if totals != last.0 {
                *last = (totals, Instant::now());
            }
            until_empty && last.1.elapsed() > EMPTY_FOR
        };
        let readings = self.readings(&recorder, over).await;
        drop((progress, running));
        let mut consumed = Consumed::default();
        for consumers in &all {
            if let Books::Tally(tally) = &consumers.books {
                consumed.add(&consumers.group, locked(tally).counts());
            }
        }
        Ok(Loaded {
            consumed: Some(consumed),
            ..self.loaded(recorder.clone(), readings)
        })
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name.to_owned()
    }
}

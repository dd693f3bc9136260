//! What this machine can do at best, in the same minutes: the same load against a server that does
//! nothing, and bare writes with a sync each.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::BenchError;
use super::limits::SYNC_FILE;
use super::nodes::Nodes;
use super::noop::NoopProcess;
use super::options::{Mode, NoopArgs, Plan};
use super::recorder::LatencySummary;
use super::session::{self, Verify};

/// Block sizes of the sync loop: a small batch and a large one.
const BLOCKS: [usize; 2] = [4 << 10, 256 << 10];
/// Longest time for one block size.
const SYNC_LOOP: Duration = Duration::from_secs(2);

/// What the no-op server reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct NoopFigures {
    pub messages_per_second: f64,
    pub latency_us: LatencySummary,
    pub cpu_us_per_message: Option<f64>,
}

/// What the disk reached with one sync per block, in a file that is already written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct SyncFigures {
    pub block_bytes: usize,
    pub syncs_per_second: f64,
    pub median_us: u64,
    pub p99_us: u64,
}

/// All of it. The no-op server runs before and after the load: the machine may be shared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Calibration {
    pub noop_before: NoopFigures,
    pub noop_after: NoopFigures,
    pub noop_messages_per_second: f64,
    pub disk: Vec<SyncFigures>,
}

/// The same load as fast as possible against a no-op server with `queues` queues.
///
/// # Errors
/// If the no-op server cannot be started.
pub(super) async fn noop(plan: &Plan, queues: u32) -> Result<NoopFigures, BenchError> {
    let keep = plan.mode != Mode::Produce;
    let process = NoopProcess::start(&NoopArgs { keep, queues })?;
    let nodes = Nodes::of_processes(vec![process.pid()]);
    let address = process.address.clone();
    if plan.mode == Mode::Consume {
        let filling = plan.against_noop(address.clone(), Mode::Produce);
        session::load(&filling, &nodes, Verify::No, "calibration: filling").await?;
    }
    let plan = plan.against_noop(address, plan.mode);
    let loaded = session::load(&plan, &nodes, Verify::No, "calibration: no-op").await?;
    let cost = nodes.cost(
        &loaded.before,
        &loaded.after,
        loaded.messages(plan.mode),
        plan.produce.payload,
    );
    Ok(NoopFigures {
        messages_per_second: loaded.messages_per_second(plan.mode),
        latency_us: match plan.mode {
            Mode::Consume => loaded.recorder.acks(),
            Mode::Produce | Mode::Both => loaded.recorder.sends(),
        },
        cpu_us_per_message: cost.cpu_us_per_message.total,
    })
}

/// Writes and syncs blocks one after the other in a file in `folder`, for `patience` with each size at most.
///
/// # Errors
/// If the file cannot be written there.
pub(super) async fn sync_loop(folder: &Path, patience: Duration) -> Result<Vec<SyncFigures>, BenchError> {
    let path = folder.join(format!("flotilla-bench-{}.tmp", std::process::id()));
    let result = tokio::task::spawn_blocking(move || measure_syncs(&path, patience.min(SYNC_LOOP))).await;
    result.expect("the sync loop does not panic")
}

fn measure_syncs(path: &Path, time: Duration) -> Result<Vec<SyncFigures>, BenchError> {
    let what = format!(
        "the sync loop in {} (choose another folder with --calibrate-dir)",
        path.display()
    );
    let measure = || {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        prewrite(&file)?;
        BLOCKS
            .iter()
            .map(|&block| measure_block(&file, block, time))
            .collect()
    };
    let result: std::io::Result<Vec<SyncFigures>> = measure();
    // A file that could not be opened cannot be removed either.
    let _ = std::fs::remove_file(path);
    result.map_err(BenchError::io(what))
}

/// Like a recycled segment: syncing into written space costs half of growing a file.
fn prewrite(file: &File) -> std::io::Result<()> {
    let zeros = vec![0; 1 << 20];
    for at in (0..SYNC_FILE).step_by(zeros.len()) {
        file.write_all_at(&zeros, at as u64)?;
    }
    file.sync_all()
}

fn measure_block(file: &File, block: usize, time: Duration) -> std::io::Result<SyncFigures> {
    let data = vec![0x5a; block];
    let mut times_us = Vec::new();
    let began = Instant::now();
    while times_us.is_empty() || began.elapsed() < time {
        let at = times_us.len() * block % SYNC_FILE;
        let one = Instant::now();
        file.write_all_at(&data, at as u64)?;
        file.sync_data()?;
        times_us.push(u64::try_from(one.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    let syncs_per_second = times_us.len() as f64 / began.elapsed().as_secs_f64();
    times_us.sort_unstable();
    let quantile = |q: usize| times_us[(times_us.len() - 1) * q / 100];
    Ok(SyncFigures {
        block_bytes: block,
        syncs_per_second,
        median_us: quantile(50),
        p99_us: quantile(99),
    })
}

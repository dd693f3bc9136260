//! How much faster than life the simulator is, on one core.

use std::{process::ExitCode, time::Instant};

use crate::process::{RESULT, start_with};

/// Simulated seconds in one real second, at least.
const WANTED: f64 = 50.0;

/// Runs the calm world of a seed and measures it.
#[expect(
    clippy::disallowed_methods,
    reason = "the real time that a simulation takes is the figure"
)]
pub(crate) fn speed(seed: u64) -> ExitCode {
    let began = Instant::now();
    let output = start_with(seed, &["--change", "world=calm"])
        .wait_with_output()
        .expect("a started program ends");
    let real = began.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text
        .lines()
        .find_map(|line| line.strip_prefix(RESULT))
        .unwrap_or_default();
    let word_before = |unit: &str| {
        let mut words = result.split(' ').skip_while(|word| *word != unit);
        words
            .nth(1)
            .and_then(|number| number.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    let simulated = word_before("simulated");
    let operations = word_before("stored") + word_before("delivered") + word_before("acked");
    println!(
        "three nodes, {:.0} operations a simulated second: {:.1} simulated seconds in {real:.1} s, {:.0} in one (wanted {WANTED:.0})",
        operations / simulated,
        simulated,
        simulated / real
    );
    if output.status.success() && simulated / real >= WANTED {
        println!("1 passed, 0 failed");
        ExitCode::SUCCESS
    } else {
        println!("0 passed, 1 failed");
        ExitCode::FAILURE
    }
}

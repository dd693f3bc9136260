//! One world in a process of its own, and what it says.

use std::{
    collections::BTreeMap,
    env,
    process::{Child, Command, Output, Stdio},
};

/// Processes at the same time.
pub(crate) const AT_ONCE: usize = 2;
/// Starts of lines that drivers read.
pub(crate) const PLAN: &str = "plan:";
pub(crate) const RESULT: &str = "result:";
pub(crate) const COVERED: &str = "covered:";
pub(crate) const SIMPLER: &str = "simpler:";
pub(crate) const REACHED: &str = "reached:";

/// Starts a run of a seed, with a planted bug or without.
pub(crate) fn start(seed: u64, bug: Option<plant::Bug>) -> Child {
    start_with(seed, &bug.map_or(Vec::new(), |bug| vec!["--plant", bug.name()]))
}

/// Starts a run of a seed with options.
pub(crate) fn start_with(seed: u64, options: &[&str]) -> Child {
    let myself = env::current_exe().expect("this program has a path");
    Command::new(myself)
        .args(["run", &seed.to_string()])
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program can be started again")
}

/// One run under way.
pub(crate) struct Run {
    pub(crate) seed: u64,
    child: Child,
}

/// What a run said.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) result: String,
    pub(crate) covered: BTreeMap<String, u64>,
    /// Why it is not good, for people.
    pub(crate) wrong: Option<String>,
}

impl Run {
    pub(crate) fn start(seed: u64) -> Run {
        Run {
            seed,
            child: start(seed, None),
        }
    }

    pub(crate) fn finish(self) -> Said {
        let output = self.child.wait_with_output().expect("a started program ends");
        let text = String::from_utf8_lossy(&output.stdout);
        let line = |start: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(start))
                .map(str::trim)
        };
        let mut said = Said {
            result: line(RESULT).unwrap_or_default().to_owned(),
            ..Said::default()
        };
        for pair in line(COVERED).unwrap_or_default().split(';') {
            if let Some((what, count)) = pair.rsplit_once('=') {
                said.covered.insert(what.to_owned(), count.parse().unwrap_or(0));
            }
        }
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let errors: Vec<&str> = errors
                .lines()
                .filter(|line| !line.trim().is_empty())
                .take(12)
                .collect();
            said.wrong = Some(format!(
                "{}\n{text}{}\n        repeat it with: make sim-replay SEED={}",
                output.status,
                errors.join("\n"),
                self.seed
            ));
        }
        said
    }
}

/// A place in the source, without where on this machine other crates are kept.
fn in_crate(place: &str) -> &str {
    let below = place.rsplit_once("/registry/src/").map(|(_, below)| below);
    below
        .and_then(|below| below.split_once('/'))
        .map_or(place, |(_, place)| place)
}

/// The first thing that a failed run says about why: a violation, or a panic.
pub(crate) fn first_complaint(output: &Output) -> String {
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let violation = text.lines().find(|line| line.starts_with("seed "));
    let panic = || {
        let mut lines = errors.lines().skip_while(|line| !line.contains("panicked at"));
        let place = in_crate(lines.next()?.split("panicked at ").nth(1)?);
        Some(format!("panic {place} {}", lines.next().unwrap_or_default()))
    };
    match violation {
        Some(line) => line.split_once(": ").map_or(line, |(_, what)| what).to_owned(),
        None => panic().unwrap_or_else(|| output.status.to_string()),
    }
}
